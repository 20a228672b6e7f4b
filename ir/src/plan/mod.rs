//! The plan: what a compiled function does at run time. Buffers, kernels, the order of their launches, and large matrix
//! products that a library does.
//!
//! In memory terms: inputs and outputs belong to the caller; temporaries live in *slots*, each as large as the largest
//! temporary that ever uses it, so that temporaries whose lives do not overlap share memory.
//! Deliberately absent: decisions. A plan runs the same on every device that has its kernels' images.

pub mod contract;
pub mod eval;
pub mod guard;
pub mod memory;
pub mod rows;
pub mod text;
pub mod traffic;
pub mod verify;

pub use contract::{Contract, Matrix};

use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel;

/// Position in [`Program::buffers`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BufferId(pub u32);

/// One compiled function.
#[derive(Clone, PartialEq, Debug)]
pub struct Program {
    /// The function's name.
    pub name: Sym,
    /// Run-time sizes, each with its bounds.
    pub sizes: Vec<SizeDecl>,
    /// All arrays: inputs in signature order, then outputs in signature order, then temporaries.
    pub buffers: Vec<Buffer>,
    /// Sizes of the memory that temporaries share: each the maximum, in bytes, over a list of polynomials.
    pub slots: Vec<Vec<Dim>>,
    /// Every kernel once, however often it is launched.
    pub kernels: Vec<kernel::Func>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// A run-time size.
#[derive(Clone, PartialEq, Debug)]
pub struct SizeDecl {
    /// Its name.
    pub name: Sym,
    /// Smallest and largest allowed value.
    pub bounds: (i64, i64),
    /// Used where nothing else says.
    pub default: Option<i64>,
}

/// One dense row-major array.
#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    /// Its name.
    pub name: Sym,
    /// Storage type.
    pub dtype: DType,
    /// Extents; may mention run-time sizes.
    pub shape: Vec<Dim>,
    /// Whose it is.
    pub kind: BufferKind,
}

/// Whose memory a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferKind {
    /// The caller's, read.
    Input,
    /// The caller's, written.
    Output,
    /// In the slot of that position.
    Temp(u32),
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Runs all tiles of a kernel.
    Launch {
        /// Position in [`Program::kernels`].
        kernel: u32,
        /// One per parameter of the kernel.
        args: Vec<Arg>,
    },
    /// A matrix product, for a library.
    Contract(Contract),
    /// Runs `body` `trip` times; `var` counts from 0 and may occur in the offsets of arguments.
    Loop {
        /// The counter's name.
        var: Sym,
        /// Number of iterations.
        trip: Dim,
        /// The steps of one iteration.
        body: Vec<Step>,
        /// Pairs of temporaries that exchange their memory after every iteration (state and next state).
        swaps: Vec<(BufferId, BufferId)>,
    },
    /// Runs `body`, launches and contractions, in order; who runs it may instead run all of them for some of the rows after the
    /// other, where [`rows`] says that this is the same: what passes between them is then still in a cache.
    Rows {
        /// Rows of what passes between the steps.
        rows: Dim,
        /// The steps.
        body: Vec<Step>,
    },
    /// Runs `body` if `flag`, a `bool` of one element, is false: what was computed so far holds where it is true.
    Unless {
        /// The truth value.
        flag: BufferId,
        /// What happens if it is false.
        body: Vec<Step>,
    },
}

/// What is passed for a kernel's parameter: a buffer from an element offset on.
#[derive(Clone, PartialEq, Debug)]
pub struct Arg {
    /// The buffer.
    pub buffer: BufferId,
    /// Elements to skip; may mention run-time sizes and the counters of the loops around.
    pub offset: Dim,
}

impl Program {
    /// The buffer of that id.
    pub fn buffer(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(id.0 as usize)
    }

    /// All contractions, in the order in which they print.
    pub fn contracts(&self) -> Vec<&Contract> {
        fn collect<'s>(steps: &'s [Step], found: &mut Vec<&'s Contract>) {
            for step in steps {
                if let Step::Contract(contract) = step {
                    found.push(contract);
                }
                collect(step.body(), found);
            }
        }
        let mut found = vec![];
        collect(&self.steps, &mut found);
        found
    }

    /// All groups of rows, in the order in which they print, each with the number of contractions before it.
    pub fn groups(&self) -> Vec<(&Step, usize)> {
        fn collect<'s>(steps: &'s [Step], n_contracts: &mut usize, found: &mut Vec<(&'s Step, usize)>) {
            for step in steps {
                match step {
                    Step::Contract(_) => *n_contracts += 1,
                    Step::Rows { .. } => found.push((step, *n_contracts)),
                    _ => {}
                }
                collect(step.body(), n_contracts, found);
            }
        }
        let mut found = vec![];
        collect(&self.steps, &mut 0, &mut found);
        found
    }

    /// Names of the steps of a group that has so many contractions before it: of kernels their own, `contract_` with the
    /// position of a contraction.
    pub fn names_in_group(&self, body: &[Step], n_contracts: usize) -> Vec<String> {
        let mut next = n_contracts..;
        let name = |step: &Step| match step {
            Step::Launch { kernel, .. } => Some(
                self.kernels.get(*kernel as usize).map_or(String::new(), |kernel| kernel.name.to_string()),
            ),
            Step::Contract(_) => next.next().map(|place| format!("contract_{place}")),
            _ => None,
        };
        body.iter().filter_map(name).collect()
    }

    /// Ids of the buffers whose kind `wanted` accepts, in order.
    pub fn buffers_where(&self, wanted: impl Fn(BufferKind) -> bool) -> Vec<BufferId> {
        let ids = (0..self.buffers.len() as u32).map(BufferId);
        ids.zip(&self.buffers).filter(|(_, buffer)| wanted(buffer.kind)).map(|(id, _)| id).collect()
    }
}

/// Shows the kernel of every launch, by position, which may be changed.
pub fn for_each_launched(steps: &mut [Step], visit: &mut dyn FnMut(&mut u32)) {
    for step in steps {
        match step {
            Step::Launch { kernel, .. } => visit(kernel),
            Step::Contract(_) => {}
            Step::Loop { body, .. } | Step::Unless { body, .. } | Step::Rows { body, .. } => {
                for_each_launched(body, visit)
            }
        }
    }
}

impl Step {
    /// The steps inside; none for a launch or a contraction.
    pub fn body(&self) -> &[Step] {
        match self {
            Step::Loop { body, .. } | Step::Unless { body, .. } | Step::Rows { body, .. } => body,
            Step::Launch { .. } | Step::Contract(_) => &[],
        }
    }

    /// The buffers of a launch or a contraction; those of steps inside are not looked for.
    pub fn buffers(&self) -> Vec<BufferId> {
        match self {
            Step::Launch { args, .. } => args.iter().map(|arg| arg.buffer).collect(),
            Step::Contract(contract) => contract.buffers().to_vec(),
            Step::Loop { .. } | Step::Unless { .. } | Step::Rows { .. } => vec![],
        }
    }
}

impl Buffer {
    /// Number of elements.
    pub fn n_elems(&self) -> Dim {
        self.shape.iter().fold(Dim::constant(1), |product, dim| product.mul(dim))
    }

    /// Number of bytes.
    pub fn size_bytes(&self) -> Dim {
        self.n_elems().mul(&Dim::constant(self.dtype.size_bytes() as i64))
    }
}
