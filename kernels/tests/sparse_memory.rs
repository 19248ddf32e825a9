//! Memory of a sparse encoder's head at the size of a published model's vocabulary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::{Device, Tensor, TensorData};
use genret_kernels::sparse_pool;

#[global_allocator]
static ALLOCATOR: Counted = Counted;
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of what is held.
struct Counted;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn a_step_holds_less_than_an_eighth_of_the_logits() {
    let (batch, seq, width, vocab) = (8, 128, 32, 131_072);
    let device = Device::flex().autodiff();
    let matrix = |seed: usize, rows: usize| {
        let values: Vec<f32> = (0..rows * width)
            .map(|i| ((i * 37 + seed * i * i) % 101) as f32 / 50.0 - 1.0)
            .collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, width]), &device).require_grad()
    };
    let (hidden, weight) = (matrix(1, batch * seq), matrix(2, vocab));
    let texts: Vec<_> = (0..batch).map(|i| i * seq..(i + 1) * seq).collect();
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let out = sparse_pool(hidden.clone(), weight.clone(), &texts, 0.5);
    let graph = out.sum().backward();
    let gradients = [hidden.grad(&graph), weight.grad(&graph)];
    assert!(gradients.iter().all(Option::is_some));
    // Both gradients among them. The unfused form holds the logits at least twice: themselves and their gradient.
    let most = MOST.load(Relaxed) - before;
    let logits = 4 * batch * seq * vocab;
    assert!(most < logits / 8, "{most} bytes beside logits of {logits}");
}
