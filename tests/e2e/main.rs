//! The real daemon, from outside: put, find, get, survive.

mod deleting;
mod deploy;
mod draining;
mod durable;
mod engines;
mod events;
mod hbm;
mod health;
mod leases;
mod measuring;
mod process;
mod put_get;
mod scrubbing;
mod why;
