//! `dtun`: arguments, the log, signals, the exit code.

mod cli;
mod log;
mod reload;
mod routes;
mod stop;

use std::process::ExitCode;

use cli::{Invocation, Order};
use dtun_shared::service::Notify;
use log::Level;
use reload::Reload;
use stop::{Requests, requests};

fn main() -> ExitCode {
    let asked = match cli::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
        Ok(asked) => asked,
        Err(usage) => {
            eprintln!("dtun: {usage}");
            return ExitCode::from(2);
        }
    };

    let level = asked.log.init();
    let notify = Notify::from_env();
    // It waits for hours, and needs no threads for that.
    let done = if let Order::Guard { record } = &asked.order {
        dtun_client::guard(record)
    } else {
        run(asked, level, notify)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(asked: Invocation, level: Level, notify: Notify) -> anyhow::Result<()> {
    if let Err(error) = dtun_shared::limits::raise_nofile() {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    for warning in &asked.warnings {
        tracing::warn!("{warning}");
    }

    let reload = asked.settings.map(|running| Reload::new(running, level));
    match asked.order {
        Order::Help => print(&cli::help()),
        Order::Version => print(concat!("dtun ", env!("CARGO_PKG_VERSION"), "\n")),
        Order::Hub(config) => {
            let Requests { stop, reloads } = requests(reload, Order::into_hub)?;
            dtun_server::run(*config, stop, reloads, notify).await
        }
        Order::Spoke(config) => {
            let Requests { stop, reloads } = requests(reload, Order::into_spoke)?;
            dtun_client::run(*config, stop, reloads, notify).await
        }
        Order::Lock(config) => dtun_client::lock(config).await,
        Order::Unlock(time) => dtun_client::unlock(time).await,
        Order::Routes { action, file } => routes::run(action, &file).await,
        Order::Clean(config) => {
            let spokes = dtun_client::clean(config).await;
            let hubs = dtun_server::clean().await;
            if let (Err(_), Err(error)) = (&hubs, &spokes) {
                tracing::error!("{error:#}");
            }
            hubs.and(spokes)
        }
        Order::Guard { record } => dtun_client::guard(&record),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;

    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
