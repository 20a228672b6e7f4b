//! The arguments of the command.

use birkhoff::ir::dtype::DType;
use birkhoff::ir::scalar::Scalar;
use birkhoff::{Cotangents, Gradient, Loops, Math, Options, Spec, Stage, Target};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Compiles mHC graphs to fused kernels, runs them, and shows every step.
#[derive(Parser)]
#[command(name = "birkhoff", version, about, long_about = None, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  birkhoff run examples/mhc_layer.toml --random 0
  birkhoff run examples/mhc_layer.toml --in inputs.safetensors -o outputs.safetensors
  birkhoff inspect examples/mhc_layer.toml --stage schedule
  birkhoff compile examples/mhc_layer.toml --target cpu -o kernels
  birkhoff check examples/mhc_layer.toml

Exit codes: 0 done, 1 the input is at fault or a check failed, 2 usage, 3 a target or device is missing.";

const RUN_EXAMPLES: &str = "\
Examples:
  birkhoff run examples/mhc_layer.toml --random 0 --dim T=37
  birkhoff run examples/mhc_layer.toml --in inputs.safetensors --set iters=5 -o outputs.safetensors
  birkhoff run examples/mhc_layer.toml --in inputs.safetensors --grad x,phi -o gradients.safetensors
  birkhoff run examples/mhc_layer.toml --random 0 --grad x --memory-budget 300000000
  birkhoff run examples/mhc_layer.toml --random 0 --fn pre --target eval --dtype f64 --json

In a safetensors file an input has its own name and ct.NAME is the cotangent of an output; results are out.NAME
and grad.NAME. With --grad, an absent cotangent is 0; without any, that of the only scalar output is 1.
Tensors called out.*, grad.*, f64.* and unused ct.* in an input file are ignored.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  birkhoff inspect examples/mhc_layer.toml --stage tensor
  birkhoff inspect examples/mhc_layer.toml --stage eqsat --diff tensor
  birkhoff inspect examples/mhc_layer.toml --stage schedule --json";

const COMPILE_EXAMPLES: &str = "\
Examples:
  birkhoff compile examples/mhc_layer.toml --target cpu -o kernels
  birkhoff compile examples/mhc_layer.toml --fn pre --dim C=1280 -o kernels
  birkhoff compile examples/mhc_layer.toml --target ptx --arch sm_90 --grad x,phi -o kernels";

const CHECK_EXAMPLES: &str = "\
Examples:
  birkhoff check examples/mhc_layer.toml
  birkhoff check examples/mhc_layer.toml --fn pre --dim C=64 --grad x,phi --targets cpu
  birkhoff check examples/mhc_layer.toml --fn layer --in inputs.safetensors --json

Sizes that are not given with --dim or by a file are small. Gradients are compared in f64 with finite differences
of the values, in which what stop_gradient gives is held fixed; targets with the evaluator in f64. The exit code
is 1 if anything failed. Where nothing can be said, at a kink or for an op that a target lacks, the report says so.";

const BENCH_EXAMPLES: &str = "\
Examples:
  birkhoff bench examples/mhc_layer.toml
  birkhoff bench examples/mhc_layer.toml --grad x,phi --threads 1 --runs 50 --json
  birkhoff bench examples/mhc_stack.toml --trace stack.json

Bytes are those across the edges of kernels, each element once. The machine's bandwidth and arithmetic are measured in the
same run; other work on the machine lowers everything. A trace opens in the viewers of Chromium and Perfetto.";

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Run a function on data from a file, or on random data.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Write a function's kernels as objects with a C header, or as PTX, and a manifest.
    #[command(after_help = COMPILE_EXAMPLES)]
    Compile(CompileArgs),
    /// Print a function at one stage of its compilation.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Compare gradients with finite differences, and every target with the evaluator.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Measure a function: time, bytes and arithmetic, in total and per kernel, beside the machine's limits.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
}

/// What to compile, and with which values.
#[derive(Args)]
pub struct SpecArgs {
    /// A .toml model spec or a .bir text
    pub spec: PathBuf,
    /// The exported function; without this, the first one
    #[arg(long = "fn", value_name = "NAME")]
    pub func: Option<String>,
    /// Give a named size its value
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = parse_dim)]
    pub dims: Vec<(String, i64)>,
    /// Give a parameter of the spec (or a size) its value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_set)]
    pub sets: Vec<(String, Scalar)>,
    /// Which rewrites are allowed: exact ones, those that reassociate, or approximate ones too
    #[arg(long, value_name = "LEVEL", default_value = "default", value_parser = math_parser())]
    pub math: Math,
    /// Make every float this type; narrower inputs are widened
    #[arg(long, value_name = "DTYPE", value_parser = float_parser())]
    pub dtype: Option<DType>,
    /// Gradients with respect to these inputs, from the cotangents ct.NAME of outputs
    #[arg(long, value_name = "INPUT,..", value_delimiter = ',')]
    pub grad: Vec<String>,
    /// How loops are differentiated: over iterates that are kept, over those of a second run, or over those rebuilt from a few and
    /// from what was dear to compute
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = loops_parser(), requires = "grad")]
    pub loops: Loops,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Read the inputs from a safetensors file
    #[arg(long = "in", value_name = "FILE", conflicts_with = "random")]
    pub input: Option<PathBuf>,
    /// Draw the inputs at random
    #[arg(long, value_name = "SEED")]
    pub random: Option<u64>,
    /// Who runs the function
    #[arg(long, default_value = "cpu", value_parser = target_parser(&Target::ALL))]
    pub target: Target,
    /// Write the outputs to a safetensors file
    #[arg(short, long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The most memory that the call may take, in bytes: inputs, outputs, temporaries, scratch
    #[arg(long, value_name = "BYTES", requires = "grad")]
    pub memory_budget: Option<u64>,
    /// Threads to run on; without this, one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// Arguments of `compile`.
#[derive(Args)]
pub struct CompileArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// What to compile for
    #[arg(long, default_value = "cpu", value_parser = target_parser(&[Target::Cpu, Target::Ptx]))]
    pub target: Target,
    /// The GPU architecture, for ptx
    #[arg(long, value_name = "sm_NN")]
    pub arch: Option<String>,
    /// The folder to write
    #[arg(short, long = "out", value_name = "DIR")]
    pub output: PathBuf,
}

/// Arguments of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The stage to print
    #[arg(long, value_parser = stage_parser())]
    pub stage: Stage,
    /// The target that kernels are scheduled for
    #[arg(long, default_value = "cpu", value_parser = target_parser(&[Target::Cpu, Target::CpuLlvm, Target::Ptx]))]
    pub target: Target,
    /// The GPU architecture, for mlir, llvm and ptx
    #[arg(long, value_name = "sm_NN")]
    pub arch: Option<String>,
    /// Print the difference from this stage to that one
    #[arg(long, value_name = "STAGE", value_parser = stage_parser())]
    pub diff: Option<Stage>,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Read the inputs from a safetensors file, of the function --fn or the first one
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The seed of inputs, directions and cotangents
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// The targets to compare with the evaluator; without this, all that this build can run
    #[arg(long, value_name = "TARGET,..", value_delimiter = ',', value_parser = target_parser(&RUNNERS))]
    pub targets: Vec<Target>,
}

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Read the inputs from a safetensors file; without this they are random
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The seed of random inputs
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Who runs the function; one report each
    #[arg(long, value_name = "TARGET,..", value_delimiter = ',', default_value = "cpu", value_parser = target_parser(&[Target::Cpu, Target::CpuLlvm, Target::Cuda]))]
    pub target: Vec<Target>,
    /// Threads to run on; without this, one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Calls before the first that counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub warmup: u16,
    /// Calls that count
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Write the launches of one call as a trace
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// Targets that run what they compile.
const RUNNERS: [Target; 6] =
    [Target::Eval, Target::KernelEval, Target::Cpu, Target::CpuLlvm, Target::PtxSim, Target::Cuda];

impl SpecArgs {
    /// Loads the spec with its overrides.
    pub fn load(&self) -> Result<Spec, birkhoff::Error> {
        let mut spec = Spec::load(&self.spec)?;
        if let Some(name) = &self.func {
            spec = spec.function(name);
        }
        for (name, value) in &self.dims {
            spec = spec.dim(name, *value);
        }
        for (name, value) in &self.sets {
            spec = spec.set(name, birkhoff::Value(*value));
        }
        if let Some(dtype) = self.dtype {
            spec = spec.float(dtype);
        }
        Ok(spec)
    }

    /// The spec of the gradient that is asked for; the spec itself without `--grad`.
    pub fn differentiated(&self, spec: Spec, cotangents: Cotangents) -> Result<Spec, birkhoff::Error> {
        self.differentiated_with(spec, cotangents, self.loops)
    }

    /// The same with another choice for loops.
    pub fn differentiated_with(
        &self,
        spec: Spec,
        cotangents: Cotangents,
        loops: Loops,
    ) -> Result<Spec, birkhoff::Error> {
        if self.grad.is_empty() {
            return Ok(spec);
        }
        spec.differentiated(&Gradient { wrt: self.grad.clone(), cotangents, values: true, loops })
    }

    /// Compiler options for a target.
    pub fn options(&self, target: Target) -> Options {
        Options { target, math: self.math, ..Options::default() }
    }
}

fn parse_dim(text: &str) -> Result<(String, i64), String> {
    let (name, value) = split_assignment(text)?;
    let value = value.parse().map_err(|_| format!("the size of `{name}` must be an integer"))?;
    Ok((name.to_string(), value))
}

fn parse_set(text: &str) -> Result<(String, Scalar), String> {
    let (name, value) = split_assignment(text)?;
    let scalar = match value {
        "true" => Scalar::Bool(true),
        "false" => Scalar::Bool(false),
        _ => match (value.parse::<i64>(), value.parse::<f64>()) {
            (Ok(int), _) => Scalar::Int(int),
            (_, Ok(float)) => Scalar::Float(float),
            _ => return Err(format!("the value of `{name}` must be a number, true or false")),
        },
    };
    Ok((name.to_string(), scalar))
}

fn split_assignment(text: &str) -> Result<(&str, &str), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.trim(), value.trim())),
        _ => Err("NAME=VALUE is expected".to_string()),
    }
}

fn target_parser(targets: &[Target]) -> impl TypedValueParser<Value = Target> + use<> {
    let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    PossibleValuesParser::new(names).try_map(|name| Target::from_name(&name).ok_or("an unknown target"))
}

fn stage_parser() -> impl TypedValueParser<Value = Stage> {
    let names: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    PossibleValuesParser::new(names).try_map(|name| Stage::from_name(&name).ok_or("an unknown stage"))
}

fn float_parser() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(["f64", "f32"])
        .try_map(|name| DType::from_name(&name).ok_or("an unknown element type"))
}

fn loops_parser() -> impl TypedValueParser<Value = Loops> {
    PossibleValuesParser::new(Loops::ALL.map(Loops::name))
        .try_map(|name| Loops::ALL.into_iter().find(|loops| loops.name() == name).ok_or("an unknown choice"))
}

fn math_parser() -> impl TypedValueParser<Value = Math> {
    PossibleValuesParser::new(["strict", "default", "fast"]).map(|name| match name.as_str() {
        "strict" => Math::Strict,
        "fast" => Math::Fast,
        _ => Math::Default,
    })
}
