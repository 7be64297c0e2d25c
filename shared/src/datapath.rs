//! The data path: packets between devices and sockets, on threads of its own.

pub mod backlog;
mod lane;
pub mod pace;
mod side;

pub use lane::Lane;
pub use side::{Dropped, Side};
