//! DLPack 1.0, and the form before it: a capsule around a struct with a shape, an address and a destructor.
//!
//! The struct owns a [`Lent`]. Whoever takes it out of the capsule (and renames the capsule) calls its deleter, perhaps
//! on a thread without the GIL; if nobody does, the capsule's own destructor frees it.

use std::ffi::{CStr, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi::{PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New, PyObject};
use pyo3::prelude::*;

use super::lent::Lent;

/// kDLCPU, device 0.
pub(super) const CPU: (i32, i32) = (1, 0);
const UNSIGNED: u8 = 1;
const READ_ONLY: u64 = 1;

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";

#[repr(C)]
struct Tensor {
    start: *mut c_void,
    device_type: i32,
    device_id: i32,
    dimensions: i32,
    type_code: u8,
    type_bits: u8,
    type_lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// DLManagedTensor.
#[repr(C)]
struct Plain {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Plain)>,
}

/// DLManagedTensorVersioned.
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: Tensor,
}

/// What a struct's context points to, and its tensor too.
struct Context {
    shape: [i64; 1],
    strides: [i64; 1],
    _lent: Lent,
}

/// Refuses what a view of CPU memory cannot do.
pub(super) fn check(has_stream: bool, device: Option<(i32, i32)>, copy: Option<bool>) -> PyResult<()> {
    let refusal = match () {
        () if has_stream => "memory of the CPU has no stream: pass stream=None",
        () if device.is_some_and(|device| device != CPU) => "the bytes are on the CPU: pass dl_device=(1, 0)",
        () if copy == Some(true) => "this is a view: copy what it gives you",
        () => return Ok(()),
    };
    Err(PyBufferError::new_err(refusal))
}

/// A capsule that owns `lent`. Consumers that know nothing of versions cannot be told that bytes are read-only, so only
/// writable ones are given to them.
pub(super) fn capsule<'py>(py: Python<'py>, lent: Lent, version: Option<(u32, u32)>) -> PyResult<Bound<'py, PyAny>> {
    let writable = lent.writable;
    let is_versioned = version.is_some_and(|(major, _)| major >= 1);
    if !is_versioned && !writable {
        let message = "a block is read-only, which DLPack before 1.0 cannot say: use numpy.frombuffer or \
                       torch.frombuffer, or pass max_version=(1, 0)";
        return Err(PyBufferError::new_err(message));
    }
    let length = i64::try_from(lent.length).expect("a block has at most 64 MiB");
    let start = lent.start.as_ptr().cast::<c_void>();
    let context = Box::into_raw(Box::new(Context { shape: [length], strides: [1], _lent: lent }));
    let tensor = tensor_of(start, context);
    let context = context.cast::<c_void>();
    let capsule = if is_versioned {
        let flags = if writable { 0 } else { READ_ONLY };
        let versioned = Versioned { major: 1, minor: 0, context, deleter: Some(delete_versioned), flags, tensor };
        let given = Box::into_raw(Box::new(versioned)).cast::<c_void>();
        // SAFETY: a pointer that is not null, a static name, and a destructor for exactly that kind of pointer.
        unsafe { PyCapsule_New(given, NAME_VERSIONED.as_ptr(), Some(drop_versioned)) }
    } else {
        let given = Box::into_raw(Box::new(Plain { tensor, context, deleter: Some(delete_plain) })).cast::<c_void>();
        // SAFETY: as above.
        unsafe { PyCapsule_New(given, NAME.as_ptr(), Some(drop_plain)) }
    };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, capsule) }
}

fn tensor_of(start: *mut c_void, context: *mut Context) -> Tensor {
    // SAFETY: the context was boxed by the caller; a field's address is taken without reading it.
    let shape = unsafe { &raw mut (*context).shape };
    // SAFETY: as above.
    let strides = unsafe { &raw mut (*context).strides };
    Tensor {
        start,
        device_type: CPU.0,
        device_id: CPU.1,
        dimensions: 1,
        type_code: UNSIGNED,
        type_bits: 8,
        type_lanes: 1,
        shape: shape.cast(),
        strides: strides.cast(),
        byte_offset: 0,
    }
}

unsafe extern "C" fn delete_plain(given: *mut Plain) {
    // SAFETY: boxed by `capsule`, and DLPack has each struct deleted once.
    let plain = unsafe { Box::from_raw(given) };
    // SAFETY: the same holds for what its context points to.
    drop(unsafe { Box::from_raw(plain.context.cast::<Context>()) });
}

unsafe extern "C" fn delete_versioned(given: *mut Versioned) {
    // SAFETY: boxed by `capsule`, and DLPack has each struct deleted once.
    let versioned = unsafe { Box::from_raw(given) };
    // SAFETY: the same holds for what its context points to.
    drop(unsafe { Box::from_raw(versioned.context.cast::<Context>()) });
}

unsafe extern "C" fn drop_plain(capsule: *mut PyObject) {
    if let Some(given) = unclaimed(capsule, NAME) {
        // SAFETY: nobody has taken the struct, so it is ours to delete.
        unsafe { delete_plain(given.cast()) };
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut PyObject) {
    if let Some(given) = unclaimed(capsule, NAME_VERSIONED) {
        // SAFETY: nobody has taken the struct, so it is ours to delete.
        unsafe { delete_versioned(given.cast()) };
    }
}

/// What a dying capsule still holds: a consumer that takes the struct gives the capsule another name.
fn unclaimed(capsule: *mut PyObject, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: Python calls the destructor with the capsule, which is still whole.
    let valid = unsafe { PyCapsule_IsValid(capsule, name.as_ptr()) };
    // SAFETY: valid under this name, as just asked.
    (valid == 1).then(|| unsafe { PyCapsule_GetPointer(capsule, name.as_ptr()) })
}
