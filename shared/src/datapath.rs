//! The data path: packets between devices and sockets, on threads of its own.

mod lane;
mod side;

pub use lane::Lane;
pub use side::{Dropped, Side};
