//! The calls of the driver, each checked: the only unsafe code of this crate.
//!
//! What the functions here rely on, and `device.rs` guarantees: `probe` has found every symbol of [`SYMBOLS`] (cudarc looks
//! them up by name and panics when one is missing); a context is current on the thread; addresses and sizes come from
//! `memory.rs`, which has checked them; memory, events and streams are alive until their own call here ends them.

use std::ffi::{CStr, c_uint, c_void};

use cudarc::driver::sys::{self, CUresult};

use crate::gpu::{GpuError, IPC_HANDLE_BYTES, IpcHandle};

/// A device by the driver's number.
pub(super) type Device = sys::CUdevice;
/// A context; used from many threads, as the driver allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context(sys::CUcontext);
/// A stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream(sys::CUstream);
/// An event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event(sys::CUevent);
/// A kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(sys::CUfunction);
/// A loaded module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module(sys::CUmodule);

// SAFETY: the driver's objects are process-wide names; its documentation lets any thread use them.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}
// SAFETY: as above.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}
// SAFETY: as above.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Everything that is called here, but for [`BATCH`].
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceGetUuid_v2",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetStreamPriorityRange",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemHostGetDevicePointer_v2",
    "cuMemGetAddressRange_v2",
    "cuPointerGetAttribute",
    "cuIpcGetMemHandle",
    "cuIpcOpenMemHandle_v2",
    "cuIpcCloseMemHandle",
    "cuMemcpyAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoD_v2",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
];
/// A batch of copies in one call, since CUDA 12.8. CUDA 13 gave the name another meaning in its headers but kept this symbol.
const BATCH: &str = "cuMemcpyBatchAsync";
/// The first driver that has [`BATCH`].
const BATCH_VERSION: u32 = 12080;

/// Whether a library of the driver can be loaded.
pub(super) fn is_present() -> bool {
    // SAFETY: loading the driver's library runs its initialisers, which are made for that.
    unsafe { sys::is_culib_present() }
}

/// The first symbol of [`SYMBOLS`] that the library lacks. After [`is_present`].
pub(super) fn missing_symbol() -> Option<&'static str> {
    SYMBOLS.iter().copied().find(|symbol| !has(symbol))
}

/// Whether copies can be put in batches.
pub(super) fn has_batches(version: u32) -> bool {
    version >= BATCH_VERSION && has(BATCH)
}

fn has(symbol: &str) -> bool {
    // SAFETY: `is_present` has loaded the library, so this does not panic; it is never unloaded.
    let library = unsafe { sys::culib() };
    // SAFETY: only the symbol's presence is looked at; it is neither called nor kept.
    unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_ok()
}

/// Errors after which the context is gone, by the driver's documentation: sticky ones, and those of hardware.
const FATAL: &[u32] =
    &[4, 46, 201, 214, 220, 226, 700, 702, 707, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 802, 999];
const OUT_OF_MEMORY: u32 = 2;

fn check(call: &'static str, result: CUresult) -> Result<(), GpuError> {
    match result as u32 {
        0 => Ok(()),
        code if FATAL.contains(&code) => Err(GpuError::Lost(format!("{call}: {}", name_of(result)))),
        _ => Err(GpuError::Refused { call, cause: name_of(result) }),
    }
}

fn name_of(result: CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: `name` is a place for one pointer.
    let found = unsafe { sys::cuGetErrorName(result, &mut name) };
    if found != CUresult::CUDA_SUCCESS || name.is_null() {
        return format!("error {}", result as u32);
    }
    // SAFETY: the driver answered with a string of its own that is never freed.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// Starts the driver; false: it finds no GPU, which it says here already.
pub(super) fn start() -> Result<bool, GpuError> {
    // SAFETY: takes no memory of ours; may be called again.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_ERROR_NO_DEVICE => Ok(false),
        result => check("cuInit", result).map(|()| true),
    }
}

pub(super) fn device_count() -> Result<u32, GpuError> {
    let mut count = 0;
    // SAFETY: `count` is a place for the answer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(u32::try_from(count).unwrap_or(0))
}

pub(super) fn driver_version() -> Result<u32, GpuError> {
    let mut version = 0;
    // SAFETY: `version` is a place for the answer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

pub(super) fn device(ordinal: u32) -> Result<Device, GpuError> {
    let mut device = 0;
    let ordinal = i32::try_from(ordinal).map_err(|_| GpuError::Invalid(format!("there is no GPU {ordinal}")))?;
    // SAFETY: `device` is a place for the answer.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal) })?;
    Ok(device)
}

pub(super) fn device_name(device: Device) -> Result<String, GpuError> {
    let mut name = [0u8; 128];
    // SAFETY: `name` has the length that is told; the driver ends what it writes with a zero.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 127, device) })?;
    Ok(String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
}

/// As nvidia-smi shows it.
pub(super) fn device_uuid(device: Device) -> Result<String, GpuError> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: `uuid` is a place for the answer.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    Ok(written(uuid.bytes.map(|byte| byte as u8)))
}

fn written(uuid: [u8; 16]) -> String {
    let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

pub(super) fn attribute(device: Device, which: sys::CUdevice_attribute) -> Result<u32, GpuError> {
    let mut value = 0;
    // SAFETY: `value` is a place for the answer.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}

pub(super) fn total_bytes(device: Device) -> Result<u64, GpuError> {
    let mut bytes = 0;
    // SAFETY: `bytes` is a place for the answer.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut bytes, device) })?;
    Ok(bytes as u64)
}

fn retain_context(device: Device) -> Result<Context, GpuError> {
    let mut context = std::ptr::null_mut();
    // SAFETY: `context` is a place for the answer.
    check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
    Ok(Context(context))
}

fn release_context(device: Device) -> Result<(), GpuError> {
    // SAFETY: retained before, and nothing of it is used any more.
    check("cuDevicePrimaryCtxRelease", unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) })
}

/// The primary context of a device, for as long as this is held.
pub(super) struct Retained {
    pub(super) device: Device,
    pub(super) context: Context,
}

impl Retained {
    pub(super) fn new(device: Device) -> Result<Self, GpuError> {
        Ok(Self { device, context: retain_context(device)? })
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        // An error only says that the driver is going, too.
        release_context(self.device).ok();
    }
}

pub(super) fn make_current(context: Context) -> Result<(), GpuError> {
    // SAFETY: the context is retained.
    check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(context.0) })
}

pub(super) fn synchronize() -> Result<(), GpuError> {
    // SAFETY: touches nothing of ours.
    check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
}

/// Lowest and highest priority of streams; higher ones are smaller numbers.
pub(super) fn priorities() -> Result<(i32, i32), GpuError> {
    let (mut least, mut greatest) = (0, 0);
    // SAFETY: both are places for answers.
    check("cuCtxGetStreamPriorityRange", unsafe { sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest) })?;
    Ok((least, greatest))
}

pub(super) fn free_bytes() -> Result<u64, GpuError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both are places for answers.
    check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
    Ok(free as u64)
}

pub(super) fn allocate(bytes: u64) -> Result<u64, GpuError> {
    let mut address = 0;
    // SAFETY: `address` is a place for the answer.
    let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes as usize) };
    if result as u32 == OUT_OF_MEMORY {
        return Err(GpuError::OutOfMemory { asked_bytes: bytes, cause: name_of(result) });
    }
    check("cuMemAlloc", result)?;
    Ok(address)
}

pub(super) fn free(address: u64) -> Result<(), GpuError> {
    // SAFETY: allocated by `allocate`, and the caller guarantees that no work on it is under way (INV-8).
    check("cuMemFree", unsafe { sys::cuMemFree_v2(address) })
}

/// Pinned host memory, reachable from the device at the same address.
pub(super) fn pin(bytes: u64) -> Result<u64, GpuError> {
    const PORTABLE_AND_MAPPED: c_uint = 1 | 2;
    let mut address: *mut c_void = std::ptr::null_mut();
    // SAFETY: `address` is a place for the answer.
    check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut address, bytes as usize, PORTABLE_AND_MAPPED) })?;
    // SAFETY: that many bytes were just allocated there, and nobody else knows of them.
    unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes as usize) };
    Ok(address.expose_provenance() as u64)
}

pub(super) fn unpin(address: u64) -> Result<(), GpuError> {
    // SAFETY: allocated by `pin`, and the caller guarantees that no work on it is under way (INV-8).
    check("cuMemFreeHost", unsafe { sys::cuMemFreeHost(std::ptr::with_exposed_provenance_mut(address as usize)) })
}

/// Reads pinned memory.
pub(super) fn read_pinned(address: u64, into: &mut [u8]) {
    let from = std::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: `memory.rs` has checked the range against an allocation of `pin`; by the port's rule no work writes it.
    unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
}

/// Writes pinned memory.
pub(super) fn write_pinned(address: u64, from: &[u8]) {
    let into = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: `memory.rs` has checked the range against an allocation of `pin`; by the port's rule no work uses it.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
}

pub(super) fn register(address: usize, bytes: u64) -> Result<(), GpuError> {
    const PORTABLE_AND_MAPPED: c_uint = 1 | 2;
    let start = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the caller keeps that range mapped until `unregister`.
    check("cuMemHostRegister", unsafe { sys::cuMemHostRegister_v2(start, bytes as usize, PORTABLE_AND_MAPPED) })
}

pub(super) fn unregister(address: usize) -> Result<(), GpuError> {
    // SAFETY: registered by `register`, and the caller guarantees that no work on it is under way (INV-8).
    check("cuMemHostUnregister", unsafe { sys::cuMemHostUnregister(std::ptr::with_exposed_provenance_mut(address)) })
}

/// Where the device sees registered host memory.
pub(super) fn device_address(address: usize) -> Result<u64, GpuError> {
    let mut seen = 0;
    let host = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: `seen` is a place for the answer; the memory is registered.
    check("cuMemHostGetDevicePointer", unsafe { sys::cuMemHostGetDevicePointer_v2(&mut seen, host, 0) })?;
    Ok(seen)
}

/// The GPU that memory is on.
pub(super) fn device_of(address: u64) -> Result<Device, GpuError> {
    let mut ordinal: Device = 0;
    let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
    let answer = std::ptr::from_mut(&mut ordinal).cast::<c_void>();
    // SAFETY: the answer of this attribute is an int, for which there is a place.
    check("cuPointerGetAttribute", unsafe { sys::cuPointerGetAttribute(answer, which, address) })?;
    Ok(ordinal)
}

/// First byte and size of the allocation an address lies in.
pub(super) fn allocation_of(address: u64) -> Result<(u64, u64), GpuError> {
    let (mut base, mut bytes) = (0, 0);
    // SAFETY: both are places for answers.
    check("cuMemGetAddressRange", unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, address) })?;
    Ok((base, bytes as u64))
}

pub(super) fn export(address: u64) -> Result<IpcHandle, GpuError> {
    let mut handle = sys::CUipcMemHandle { reserved: [0; IPC_HANDLE_BYTES] };
    // SAFETY: `handle` is a place for the answer; the address is an allocation of ours.
    check("cuIpcGetMemHandle", unsafe { sys::cuIpcGetMemHandle(&mut handle, address) })?;
    Ok(IpcHandle(handle.reserved.map(|byte| byte as u8)))
}

pub(super) fn open_handle(handle: &IpcHandle) -> Result<u64, GpuError> {
    const LAZY_PEER_ACCESS: c_uint = 1;
    let mut address = 0;
    let reserved = handle.0.map(|byte| byte as std::ffi::c_char);
    let handle = sys::CUipcMemHandle { reserved };
    // SAFETY: `address` is a place for the answer; the driver itself judges the handle's bytes.
    let result = unsafe { sys::cuIpcOpenMemHandle_v2(&mut address, handle, LAZY_PEER_ACCESS) };
    match result {
        // It means the other process's context here, not ours: a handle of this process, or of another PID namespace.
        CUresult::CUDA_ERROR_INVALID_CONTEXT => {
            Err(GpuError::Refused { call: "cuIpcOpenMemHandle", cause: name_of(result) })
        }
        result => check("cuIpcOpenMemHandle", result).map(|()| address),
    }
}

pub(super) fn close_handle(address: u64) -> Result<(), GpuError> {
    // SAFETY: opened by `open_handle`, and the caller guarantees that no work on it is under way (INV-8).
    check("cuIpcCloseMemHandle", unsafe { sys::cuIpcCloseMemHandle(address) })
}

/// Copies between any two memories: addresses are unified, so the driver knows which is where.
pub(super) fn copy(from: u64, to: u64, bytes: u64, stream: Stream) -> Result<(), GpuError> {
    // SAFETY: both ranges were checked and stay alive until a mark behind this is reached (INV-8).
    check("cuMemcpyAsync", unsafe { sys::cuMemcpyAsync(to, from, bytes as usize, stream.0) })
}

/// The same for many, in one call. The driver reads the lists before it returns.
pub(super) fn copy_batch(
    froms: &mut [u64],
    tos: &mut [u64],
    sizes: &mut [usize],
    stream: Stream,
) -> Result<(), GpuError> {
    let nowhere = sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID, id: 0 };
    let mut attributes = sys::CUmemcpyAttributes {
        srcAccessOrder: sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
        srcLocHint: nowhere,
        dstLocHint: nowhere,
        flags: 0,
    };
    let (mut first, mut failed) = (0usize, 0usize);
    let count = froms.len().min(tos.len()).min(sizes.len());
    // SAFETY: the lists have at least `count` entries and outlive the call; the ranges were checked and stay alive until
    // a mark behind this is reached (INV-8).
    let result = unsafe {
        sys::cuMemcpyBatchAsync(
            tos.as_mut_ptr(),
            froms.as_mut_ptr(),
            sizes.as_mut_ptr(),
            count,
            &mut attributes,
            &mut first,
            1,
            &mut failed,
            stream.0,
        )
    };
    check(BATCH, result)
}

pub(super) fn zero(address: u64, bytes: u64, stream: Stream) -> Result<(), GpuError> {
    // SAFETY: the range is our own memory, used by this stream only.
    check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(address, 0, bytes as usize, stream.0) })
}

/// Copies to the device and waits.
pub(super) fn upload(to: u64, words: &[u32]) -> Result<(), GpuError> {
    let bytes = size_of_val(words);
    // SAFETY: the caller allocated that many bytes at `to`.
    check("cuMemcpyHtoD", unsafe { sys::cuMemcpyHtoD_v2(to, words.as_ptr().cast(), bytes) })
}

pub(super) fn create_stream(priority: i32) -> Result<Stream, GpuError> {
    const NON_BLOCKING: c_uint = 1;
    let mut stream = std::ptr::null_mut();
    // SAFETY: `stream` is a place for the answer.
    let result = unsafe { sys::cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, priority) };
    check("cuStreamCreateWithPriority", result)?;
    Ok(Stream(stream))
}

pub(super) fn destroy_stream(stream: Stream) -> Result<(), GpuError> {
    // SAFETY: created by `create_stream`, and not used any more.
    check("cuStreamDestroy", unsafe { sys::cuStreamDestroy_v2(stream.0) })
}

/// An event whose waiters sleep.
pub(super) fn create_event() -> Result<Event, GpuError> {
    const BLOCKING_SYNC_WITHOUT_TIMING: c_uint = 1 | 2;
    let mut event = std::ptr::null_mut();
    // SAFETY: `event` is a place for the answer.
    check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, BLOCKING_SYNC_WITHOUT_TIMING) })?;
    Ok(Event(event))
}

pub(super) fn record(event: Event, stream: Stream) -> Result<(), GpuError> {
    // SAFETY: both are alive.
    check("cuEventRecord", unsafe { sys::cuEventRecord(event.0, stream.0) })
}

pub(super) fn wait(event: Event) -> Result<(), GpuError> {
    // SAFETY: the event is alive.
    check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event.0) })
}

pub(super) fn destroy_event(event: Event) -> Result<(), GpuError> {
    // SAFETY: created by `create_event`, and not used any more.
    check("cuEventDestroy", unsafe { sys::cuEventDestroy_v2(event.0) })
}

/// Loads PTX; the driver compiles it for its device.
pub(super) fn load_module(ptx: &CStr) -> Result<Module, GpuError> {
    let mut module = std::ptr::null_mut();
    // SAFETY: `module` is a place for the answer, and the text ends with a zero.
    check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, ptx.as_ptr().cast()) })?;
    Ok(Module(module))
}

pub(super) fn unload_module(module: Module) -> Result<(), GpuError> {
    // SAFETY: loaded by `load_module`, and no kernel of it is used any more.
    check("cuModuleUnload", unsafe { sys::cuModuleUnload(module.0) })
}

pub(super) fn find_kernel(module: Module, name: &CStr) -> Result<Kernel, GpuError> {
    let mut kernel = std::ptr::null_mut();
    // SAFETY: `kernel` is a place for the answer; the module is loaded.
    check("cuModuleGetFunction", unsafe { sys::cuModuleGetFunction(&mut kernel, module.0, name.as_ptr()) })?;
    Ok(Kernel(kernel))
}

/// Launches a kernel of 256 threads a block whose only argument is this structure, which is copied before this returns.
pub(super) fn launch<T>(kernel: Kernel, grid: (u32, u32), stream: Stream, arguments: &T) -> Result<(), GpuError> {
    let mut parameters: [*mut c_void; 1] = [std::ptr::from_ref(arguments).cast_mut().cast()];
    let none = std::ptr::null_mut();
    // SAFETY: the structure is laid out as the kernel's argument (arguments.rs), every address in it was checked and stays
    // alive until a mark behind this is reached (INV-8).
    let result = unsafe {
        sys::cuLaunchKernel(kernel.0, grid.0, grid.1, 1, 256, 1, 1, 0, stream.0, parameters.as_mut_ptr(), none)
    };
    check("cuLaunchKernel", result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_shows_it() {
        let bytes = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(written(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
