//! The HBM tier on a simulated device: the suites every tier and every GPU must pass, faults, and the pool. The kernels
//! are compiled, and the real driver's absence is met.

mod conformance;
mod driver;
mod faults;
mod fresh;
mod hang;
mod kernels;
mod pieces;
mod pool;
mod probe;
mod rig;
