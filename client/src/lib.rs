//! The spoke: dial, reconnect, routes, hooks.

mod admit;
mod backoff;
mod dial;
mod liveness;
mod spoke;
