//! Transfers at the device, by the number the ring returns.

use crate::transfer::Transfer;

/// A table of transfers under way.
///
/// If it were dropped while some are, the device might still touch their memory and nobody would hear when it is done:
/// the memory is then leaked on purpose (INV-8).
#[derive(Default)]
pub(crate) struct Flights {
    places: Vec<Option<Transfer>>,
    free: Vec<u32>,
}

impl Flights {
    /// Takes a transfer in and gives it a number.
    pub(crate) fn depart(&mut self, transfer: Transfer) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(transfer);
            return number;
        }
        self.places.push(Some(transfer));
        self.places.len() as u32 - 1
    }

    /// Gives a transfer back. Panics if none has this number.
    pub(crate) fn arrive(&mut self, number: u32) -> Transfer {
        let transfer = self.places[number as usize].take().expect("the ring returns each number once");
        self.free.push(number);
        transfer
    }

    /// None is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        for transfer in self.places.drain(..).flatten() {
            tracing::error!(%transfer, "the ring ended with a transfer at the device: its memory is leaked");
            std::mem::forget(transfer);
        }
    }
}
