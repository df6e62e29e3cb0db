//! What libtorch offers and `tch` does not: which operators take the time, and whose memory is alive.
//!
//! A [`Recorder`] watches the thread that starts it. libtorch tells it of every operator that begins and ends there, and
//! of all memory that its processor-side allocator takes and gives back. Where nothing is recorded, nothing is paid.

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;

/// Stage of the rows of [`Recorder::name`].
pub const NAMED: i32 = -1;

/// One operator in one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What [`Recorder::stage`] had said when it began, or [`NAMED`].
    pub stage: i32,
    /// libtorch's name of it, `aten::add_`. In a backward pass the node of the graph comes first:
    /// `ReluBackward0 > aten::threshold_backward`. Empty for memory that no operator took.
    pub operator: String,
    /// How often it ended since the start or the last [`Recorder::reset`].
    pub calls: u64,
    /// Time it took in these calls, without that of the operators it called.
    pub nanoseconds: u64,
    /// What it held of the memory at the moment when the most was held since the start or the last [`Recorder::reset`].
    /// What an operator takes only to hand it on (`aten::empty`) belongs to the one that called it.
    pub bytes_at_peak: u64,
}

/// Records what libtorch does on this thread until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// The recording belongs to the thread.
    _stays: PhantomData<*const ()>,
}

type Visit = extern "C" fn(*mut c_void, i32, *const c_char, u64, u64, u64);

unsafe extern "C" {
    fn diptych_recorder_start() -> bool;
    fn diptych_recorder_stop();
    fn diptych_recorder_stage(stage: i32);
    fn diptych_recorder_name(address: usize, owner: *const c_char);
    fn diptych_recorder_reset();
    fn diptych_recorder_read(visit: Visit, context: *mut c_void);
}

impl Recorder {
    /// Starts; `None` if this thread is being recorded already. Memory taken earlier is not known to it.
    pub fn start() -> Option<Self> {
        // SAFETY: it takes nothing and changes only what belongs to this thread, but for libtorch's level of warnings, a
        // plain number.
        let started = unsafe { diptych_recorder_start() };
        started.then(|| Self { _stays: PhantomData })
    }

    /// What begins and what is taken from now on belongs to this stage, a number of your own from 0 on. It starts at 0.
    pub fn stage(&self, stage: i32) {
        // SAFETY: a recorder never leaves its thread, so that thread's recording exists.
        unsafe { diptych_recorder_stage(stage) };
    }

    /// Counts the memory that starts at this address in a row of its own from now on, of stage [`NAMED`] with the owner as
    /// its operator. An address that is not known stays so.
    ///
    /// # Panics
    /// If the name of the owner holds a zero byte.
    pub fn name(&self, address: usize, owner: &str) {
        let owner = CString::new(owner).expect("the name of an owner has no zero byte");
        // SAFETY: as in `stage`; the address is a number there too, and the text is copied.
        unsafe { diptych_recorder_name(address, owner.as_ptr()) };
    }

    /// Forgets the times and calls so far, and takes the memory held now for the most. No operator may be at work, and
    /// none is where Rust code runs.
    pub fn reset(&self) {
        // SAFETY: as in `stage`.
        unsafe { diptych_recorder_reset() };
    }

    /// Everything so far, by stage and operator.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        // SAFETY: as in `stage`; `visit` is called with these rows, and not after this call.
        unsafe { diptych_recorder_read(visit, (&raw mut rows).cast()) };
        rows
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: as in `stage`, and it is dropped once.
        unsafe { diptych_recorder_stop() };
    }
}

extern "C" fn visit(
    rows: *mut c_void,
    stage: i32,
    operator: *const c_char,
    calls: u64,
    nanoseconds: u64,
    bytes_at_peak: u64,
) {
    // SAFETY: `rows` is what `Recorder::rows` passed, which nothing else uses meanwhile; the name ends with a zero and
    // lives until this returns.
    let (rows, operator) = unsafe { (&mut *rows.cast::<Vec<Row>>(), CStr::from_ptr(operator)) };
    let operator = operator.to_string_lossy().into_owned();
    rows.push(Row { stage, operator, calls, nanoseconds, bytes_at_peak });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::Instant;
    use tch::{Device, Kind, Tensor};

    const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn find<'a>(rows: &'a [Row], stage: i32, operator: &str) -> &'a Row {
        let found = rows.iter().find(|row| row.stage == stage && row.operator == operator);
        found.unwrap_or_else(|| panic!("no {operator} in stage {stage}: {rows:#?}"))
    }

    fn held(rows: &[Row]) -> u64 {
        rows.iter().map(|row| row.bytes_at_peak).sum()
    }

    #[test]
    fn operators_are_counted_in_their_stage_until_the_recorder_is_dropped() {
        let (a, b) = (Tensor::ones([64, 32], F32), Tensor::ones([32, 16], F32));
        let recorder = Recorder::start().unwrap();
        assert!(Recorder::start().is_none(), "one recorder a thread");
        let _ = black_box(a.mm(&b));
        recorder.stage(7);
        let _ = black_box((a.mm(&b), a.mm(&b)));
        let rows = recorder.rows();
        assert_eq!(find(&rows, 0, "aten::mm").calls, 1);
        assert_eq!(find(&rows, 7, "aten::mm").calls, 2);
        assert!(find(&rows, 7, "aten::mm").nanoseconds > 0);
        recorder.reset();
        assert!(recorder.rows().iter().all(|row| row.calls == 0 && row.nanoseconds == 0));
        drop(recorder);
        let _ = black_box(a.mm(&b));
        let recorder = Recorder::start().unwrap();
        assert_eq!(recorder.rows(), []);
        // What happens on another thread is not this recorder's.
        std::thread::spawn(move || black_box(a.mm(&b)).size()).join().unwrap();
        assert_eq!(recorder.rows(), []);
    }

    #[test]
    fn times_of_nested_operators_never_add_up_to_more_than_the_wall_time() {
        let recorder = Recorder::start().unwrap();
        let started = Instant::now();
        let x = Tensor::ones([8, 16, 24, 24], F32).set_requires_grad(true);
        let kernel = Tensor::ones([16, 16, 3, 3], F32).set_requires_grad(true);
        for _ in 0..4 {
            x.conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
                .relu()
                .sum(None)
                .backward();
        }
        let wall = started.elapsed().as_nanos() as u64;
        let rows = recorder.rows();
        let recorded: u64 = rows.iter().map(|row| row.nanoseconds).sum();
        // The wrapper's time is its own alone: nearly all lies in what it calls.
        assert!(recorded <= wall, "{recorded} of {wall} ns");
        assert!(2 * recorded > wall, "{recorded} of {wall} ns");
        let wrapper = find(&rows, 0, "aten::conv2d");
        assert_eq!(wrapper.calls, 4);
        assert!(wrapper.nanoseconds < recorded / 10, "{wrapper:?} of {recorded} ns");
        // The backward pass ran here, and says of which node an operator is part.
        let backward = find(&rows, 0, "ConvolutionBackward0 > aten::convolution_backward");
        assert_eq!(backward.calls, 4);
    }

    #[test]
    fn memory_belongs_to_its_operator_at_the_peak_and_is_gone_after() {
        const MIB: u64 = 1 << 20;
        let recorder = Recorder::start().unwrap();
        let a = Tensor::ones([512, 512], F32); // 1 MiB
        recorder.name(a.data_ptr() as usize, "weights");
        recorder.name(1, "nothing");
        recorder.stage(1);
        let product = a.mm(&a);
        let rows = recorder.rows();
        assert_eq!(find(&rows, NAMED, "weights").bytes_at_peak, MIB);
        assert_eq!(find(&rows, 1, "aten::mm").bytes_at_peak, MIB);
        assert_eq!(held(&rows), 2 * MIB, "{rows:#?}");
        drop(product);
        assert_eq!(held(&recorder.rows()), 2 * MIB, "the peak stays");
        let small = a.narrow(0, 0, 256).clamp_min(0.0); // a view takes nothing, its result half
        assert_eq!(held(&recorder.rows()), 2 * MIB);
        recorder.reset();
        let rows = recorder.rows();
        assert_eq!(find(&rows, 1, "aten::mm").bytes_at_peak, 0);
        assert_eq!(find(&rows, 1, "aten::clamp_min").bytes_at_peak, MIB / 2, "{rows:#?}");
        assert_eq!(held(&rows), 3 * MIB / 2);
        drop((a, small));
        recorder.reset();
        assert_eq!(held(&recorder.rows()), 0);
    }
}
