//! The demo's web server and browser: says who asked, and sends what can be checked.
//!
//! `witness serve PORT BYTES` answers each connection with a line that names the
//! address it came from, then that many bytes.
//! `witness ask ADDRESS:PORT` prints that line, how many bytes followed, and
//! whether they were the right ones.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port, bytes] => serve(
            port.parse().map_err(Error::other)?,
            bytes.parse().map_err(Error::other)?,
        ),
        ["ask", address] => ask(address),
        _ => Err(Error::other("use: witness serve PORT BYTES | ask ADDRESS:PORT")),
    }
}

fn serve(port: u16, bytes: u64) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    loop {
        let (mut stream, peer) = listener.accept()?;
        writeln!(stream, "{}", peer.ip().to_canonical())?;
        let mut stream = std::io::BufWriter::new(stream);
        let mut noise = Noise::default();
        for _ in 0..bytes / 8 {
            stream.write_all(&noise.next().to_le_bytes())?;
        }
        stream.flush()?;
    }
}

fn ask(address: &str) -> Result<()> {
    let mut stream = BufReader::with_capacity(1 << 16, TcpStream::connect(address)?);
    let mut line = String::new();
    stream.read_line(&mut line)?;

    let mut noise = Noise::default();
    let mut received = 0;
    let mut word = [0; 8];
    while !stream.fill_buf()?.is_empty() {
        std::io::Read::read_exact(&mut stream, &mut word)?;
        if word != noise.next().to_le_bytes() {
            return Err(Error::other(format!("byte {received} or one after it is wrong")));
        }
        received += 8;
    }

    println!("{} {received}", line.trim_end());
    Ok(())
}

/// The same sequence on both sides (xorshift64).
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
