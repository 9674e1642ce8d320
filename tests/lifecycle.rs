//! A turn from its start to its end, whoever leaves, breaks, stalls or stops on the way.

mod bounds;
mod leaving;
mod memory;
mod process;
mod soak;
mod starts;
mod upstream;
