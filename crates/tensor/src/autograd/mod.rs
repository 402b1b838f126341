//! Reverse-mode differentiation.
//!
//! * [`Tensor::variable`] makes a leaf: a tensor whose gradient is wanted;
//! * a result of operators on it remembers its [`Node`]: the inputs, and a closure that turns the gradient of the result into
//!   gradients of the inputs;
//! * [`Tensor::backward`] runs those closures from the last to the first and returns [`Gradients`], one for each leaf.
//!
//! Nodes are numbered as they are made, so an input has a smaller number than what was made of it: going by numbers, from
//! the largest down, every gradient is complete when its turn comes. Gradients of a tensor that was used twice are added in
//! that order, which depends on the program alone: training is reproducible bit for bit.
//!
//! Gradients are f32 on the CPU. On a GPU they have the type of what they belong to, and a cast back is part of a cast's
//! gradient: so f32 master weights that are cast to bf16 where they are used get f32 gradients.
//!
//! A tensor remembers only where an input does, and not inside [`no_grad`]: inference pays nothing.
//!
//! ```
//! use supple_tensor::{Cpu, Device, Isa, Tensor, ops};
//! let device = Device::cpu(Cpu::new(Isa::detect(), 1))?;
//! let x = Tensor::from_slice(&device, &[1.0f32, -2.0, 3.0], &[3])?.variable();
//! let loss = ops::sum(&ops::mul(&x, &x)?)?;
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.of(&x).expect("x was used").to_vec::<f32>()?, [2.0, -4.0, 6.0]);
//! # Ok::<(), supple_tensor::Error>(())
//! ```

mod checkpoint;
mod views;

use crate::error::refuse;
use crate::{DType, Device, Error, Tensor, ops};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use checkpoint::{checkpoint, straight_through};
pub(crate) use views::{View, recorded_cast, recorded_copy, recorded_view};

/// Gradients of a node's inputs, in their order; `None` where an input needs none or did not matter.
pub(crate) type InputGradients = Vec<Option<Tensor>>;

/// Turns the gradient of a result into those of its inputs. `needed` tells which of them are wanted.
pub(crate) type Backward = Box<dyn Fn(&Tensor, &[bool], &mut Gradients) -> Result<InputGradients, Error> + Send + Sync>;

/// What a tensor remembers of how it was made.
pub struct Node {
    id: u64,
    op: &'static str,
    inputs: Vec<Option<Arc<Node>>>,
    /// `None` for a leaf.
    backward: Option<Backward>,
}

impl Node {
    fn new(op: &'static str, inputs: Vec<Option<Arc<Node>>>, backward: Option<Backward>) -> Arc<Node> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Node { id: NEXT.fetch_add(1, Ordering::Relaxed), op, inputs, backward })
    }

    /// Whether it is a leaf, and not the result of an operator.
    pub(crate) fn is_leaf(&self) -> bool {
        self.backward.is_none()
    }

    /// Name of the operator, `variable` for a leaf.
    pub fn op(&self) -> &'static str {
        self.op
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} {})", self.id, self.op)
    }
}

impl Drop for Node {
    /// A chain of nodes is taken apart in a loop: as long as networks are deep, recursion would be too.
    fn drop(&mut self) {
        let mut waiting = std::mem::take(&mut self.inputs);
        // The closure holds tensors, and they their nodes: what it alone holds on to must go first.
        self.backward = None;
        while let Some(node) = waiting.pop() {
            if let Some(mut node) = node.and_then(Arc::into_inner) {
                waiting.append(&mut node.inputs);
            }
        }
    }
}

thread_local! {
    static PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without remembering anything, on this thread.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(false, f)
}

/// Runs `f` with recording on or off, and restores what was before, also after a panic.
fn with_recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            PAUSED.set(self.0);
        }
    }
    let _restore = Restore(PAUSED.replace(!on));
    f()
}

/// Whether a result of these tensors has to remember them.
pub(crate) fn is_recording(inputs: &[&Tensor]) -> bool {
    inputs.iter().any(|tensor| tensor.history().is_some()) && !PAUSED.get()
}

/// `y`, remembering its inputs if one of them needs a gradient. `backward` makes the closure, from what it has to keep.
pub(crate) fn record<F>(op: &'static str, y: Tensor, inputs: &[&Tensor], backward: impl FnOnce() -> F) -> Tensor
where
    F: Fn(&Tensor, &[bool]) -> Result<InputGradients, Error> + Send + Sync + 'static,
{
    if !is_recording(inputs) {
        return y;
    }
    let backward = backward();
    record_always(op, y, inputs, Box::new(move |grad, needed, _| backward(grad, needed)))
}

/// `y`, remembering its inputs in any case.
fn record_always(op: &'static str, y: Tensor, inputs: &[&Tensor], backward: Backward) -> Tensor {
    let inputs = inputs.iter().map(|tensor| tensor.history().cloned()).collect();
    y.with_history(Some(Node::new(op, inputs, Some(backward))))
}

/// Refuses to go on where a gradient would be lost without a word.
pub(crate) fn refuse_gradient(op: &'static str, instead: &str, inputs: &[&Tensor]) -> Result<(), Error> {
    if is_recording(inputs) {
        return refuse!(op, "packed weights and gradients do not go together; use {instead}, or no_grad");
    }
    Ok(())
}

/// Gradients of leaves.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    by_leaf: HashMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of `leaf`, which [`Tensor::variable`] made; `None` if the result did not depend on it.
    pub fn of(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.by_leaf.get(&leaf.history()?.id)
    }

    /// Takes the gradient of `leaf` out.
    pub fn take(&mut self, leaf: &Tensor) -> Option<Tensor> {
        self.by_leaf.remove(&leaf.history()?.id)
    }

    /// Puts another gradient in the place of that of `leaf`; nothing happens if `leaf` is no leaf.
    pub fn replace(&mut self, leaf: &Tensor, grad: Tensor) {
        if let Some(node) = leaf.history() {
            self.by_leaf.insert(node.id, grad);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_leaf.is_empty()
    }

    /// Adds the gradients of another result: so a large batch is made of small ones.
    ///
    /// # Errors
    /// If the same leaf has gradients of different shapes, which a leaf cannot have.
    pub fn accumulate(&mut self, other: Gradients) -> Result<(), Error> {
        other.by_leaf.into_iter().try_for_each(|(id, grad)| self.add(id, grad))
    }

    fn add(&mut self, id: u64, grad: Tensor) -> Result<(), Error> {
        let sum = match self.by_leaf.remove(&id) {
            Some(sum) => no_grad(|| ops::add(&sum, &grad))?,
            None => grad,
        };
        self.by_leaf.insert(id, sum);
        Ok(())
    }
}

impl Tensor {
    /// The same values as a leaf: gradients with respect to it are wanted. What the tensor remembered is forgotten.
    pub fn variable(&self) -> Tensor {
        self.detach().with_history(Some(Node::new("variable", Vec::new(), None)))
    }

    /// The same values, remembering nothing: no gradient passes here.
    pub fn detach(&self) -> Tensor {
        self.clone().with_history(None)
    }

    /// Whether gradients with respect to this tensor, or what it was made of, are wanted.
    pub fn requires_grad(&self) -> bool {
        self.history().is_some()
    }

    /// Gradients of this tensor, which has one element, with respect to every leaf that it was made of.
    ///
    /// # Errors
    /// If it has not one element or depends on no leaf, or a gradient does not fit the memory.
    pub fn backward(&self) -> Result<Gradients, Error> {
        if self.elements() != 1 {
            return refuse!("backward", "wants one element, such as a loss, got shape {:?}", self.shape());
        }
        let one = Tensor::filled(self.device(), self.shape(), 1.0, self.gradient_dtype())?;
        self.backward_with(&one)
    }

    /// The type of its gradient: that of its own elements on a GPU, f32 on the CPU.
    pub(crate) fn gradient_dtype(&self) -> DType {
        match (self.device(), self.dtype()) {
            (Device::Cpu(_), _) => DType::F32,
            #[cfg(feature = "cuda")]
            (_, dtype @ (DType::F16 | DType::BF16)) => dtype,
            #[cfg(feature = "cuda")]
            _ => DType::F32,
        }
    }

    /// Gradients of `Σ self · grad` with respect to every leaf.
    ///
    /// # Errors
    /// If `grad` has another shape, the tensor depends on no leaf, or a gradient does not fit the memory.
    pub fn backward_with(&self, grad: &Tensor) -> Result<Gradients, Error> {
        let Some(node) = self.history() else {
            return refuse!("backward", "no variable went into this tensor, or it was made inside no_grad");
        };
        if grad.shape() != self.shape() {
            return refuse!("backward", "a gradient of shape {:?} for shape {:?}", grad.shape(), self.shape());
        }
        no_grad(|| run_backward(node, grad.detach()))
    }
}

/// Goes through nodes from the newest to the oldest.
fn run_backward(last: &Arc<Node>, grad: Tensor) -> Result<Gradients, Error> {
    let mut gradients = Gradients::default();
    let mut waiting: BTreeMap<u64, (Arc<Node>, Tensor)> = BTreeMap::new();
    waiting.insert(last.id, (last.clone(), grad));
    while let Some((id, (node, grad))) = waiting.pop_last() {
        let Some(backward) = &node.backward else {
            gradients.add(id, grad)?;
            continue;
        };
        let needed: Vec<bool> = node.inputs.iter().map(Option::is_some).collect();
        let given = backward(&grad, &needed, &mut gradients)?;
        debug_assert_eq!(given.len(), needed.len(), "{}: gradients", node.op);
        for (input, grad) in node.inputs.iter().zip(given) {
            let (Some(input), Some(grad)) = (input, grad) else { continue };
            let sum = match waiting.remove(&input.id) {
                Some((_, sum)) => ops::add(&sum, &grad)?,
                None => grad,
            };
            waiting.insert(input.id, (input.clone(), sum));
        }
    }
    Ok(gradients)
}
