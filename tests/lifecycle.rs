//! A turn from its start to its end, whoever leaves, breaks, stalls or stops on the way.

mod bounds;
mod leaving;
mod process;
mod starts;
mod upstream;
