//! A kernel as text, on the way to machine code of this processor.

/// A kernel as text, at two stages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The kernel's name.
    pub name: String,
    /// The IR of the code generator: Cranelift's, or LLVM's after its passes.
    pub ir: String,
    /// Instructions.
    pub asm: String,
}
