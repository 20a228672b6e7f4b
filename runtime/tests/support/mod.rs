//! A plan with a loop, a swap and slices, for tests of what calls it.

use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Access, Func, GridAxis, Local, Param, Space, Var, VarInfo};
use birkhoff_ir::plan::{Arg, Buffer, BufferId, BufferKind, Program, SizeDecl, Step};

/// Elements of a row.
pub const WIDTH: i64 = 64;
/// Rows of a tile.
pub const TILE: i64 = 16;

/// Extents: numbers, or names of sizes.
pub fn dims(text: &[&str]) -> Vec<Dim> {
    text.iter().map(|name| name.parse::<i64>().map_or_else(|_| Dim::sym(*name), Dim::constant)).collect()
}

/// A parameter of f32.
pub fn param(name: &str, shape: &[&str], access: Access) -> Param {
    Param { name: Sym::from(name), dtype: DType::F32, shape: dims(shape), access }
}

/// A kernel over `T` in tiles, without a body.
pub fn kernel(name: &str, params: Vec<Param>) -> Func {
    let axis = GridAxis {
        name: Sym::from("t"),
        extent: Dim::sym("T"),
        tile: TILE as u32,
        base: Var(0),
        count: Var(1),
    };
    let sums = Local {
        name: Sym::from("sums"),
        dtype: DType::F32,
        shape: dims(&["16"]),
        space: Space::Tile,
        lane_axis: None,
    };
    let index = VarInfo { dtype: DType::I64, name: None };
    Func {
        name: Sym::from(name),
        sizes: vec![Sym::from("T")],
        params,
        grid: vec![axis],
        locals: vec![sums],
        vars: vec![index.clone(), index],
        body: vec![],
    }
}

/// A buffer of f32.
pub fn buffer(name: &str, shape: &[&str], kind: BufferKind) -> Buffer {
    Buffer { name: Sym::from(name), dtype: DType::F32, shape: dims(shape), kind }
}

/// A launch with buffers and the elements to skip.
pub fn launch(kernel: u32, args: &[(u32, Dim)]) -> Step {
    let args = args.iter().map(|(id, offset)| Arg { buffer: BufferId(*id), offset: offset.clone() });
    Step::Launch { kernel, args: args.collect() }
}

/// `a = normalise(x)`, then five times `a = 2 a + steps[i]`, then `y = normalise(a)`, in two slots that swap.
pub fn program() -> Program {
    let normalise = kernel(
        "normalise",
        vec![param("src", &["T", "64"], Access::Read), param("dst", &["T", "64"], Access::Write)],
    );
    let advance = kernel(
        "advance",
        vec![
            param("step", &["1"], Access::Read),
            param("state", &["T", "64"], Access::Read),
            param("next", &["T", "64"], Access::Write),
        ],
    );
    let zero = Dim::default;
    let slot = Dim::sym("T").mul(&Dim::constant(WIDTH * 4));
    Program {
        name: Sym::from("f"),
        sizes: vec![SizeDecl { name: Sym::from("T"), bounds: (1, 1 << 31), default: None }],
        buffers: vec![
            buffer("x", &["T", "64"], BufferKind::Input),
            buffer("steps", &["5"], BufferKind::Input),
            buffer("y", &["T", "64"], BufferKind::Output),
            buffer("a", &["T", "64"], BufferKind::Temp(0)),
            buffer("b", &["T", "64"], BufferKind::Temp(1)),
        ],
        slots: vec![vec![slot.clone()], vec![Dim::constant(64), slot]],
        kernels: vec![normalise, advance],
        steps: vec![
            launch(0, &[(0, zero()), (3, zero())]),
            Step::Loop {
                var: Sym::from("i"),
                trip: Dim::constant(5),
                body: vec![launch(1, &[(1, Dim::sym("i")), (3, zero()), (4, zero())])],
                swaps: vec![(BufferId(3), BufferId(4))],
            },
            launch(0, &[(3, zero()), (2, zero())]),
        ],
    }
}

/// Rows of numbers that are not zero.
pub fn tokens(n_tokens: i64) -> Vec<f32> {
    (0..n_tokens * WIDTH).map(|pos| 1.0 + ((pos * 7919) % 1013) as f32 / 977.0).collect()
}

/// What each iteration adds.
pub const STEPS: [f32; 5] = [0.5, 0.25, 1.0, 0.0, 2.0];

/// The same function, written down once more without plan, tiles or swaps.
pub fn expected(x: &[f32]) -> Vec<f32> {
    let normalise = |rows: &[f32]| -> Vec<f32> {
        rows.chunks(WIDTH as usize)
            .flat_map(|row| {
                let sum: f32 = row.iter().sum();
                row.iter().map(move |value| value / sum)
            })
            .collect()
    };
    let mut state = normalise(x);
    for step in STEPS {
        state.iter_mut().for_each(|value| *value = *value * 2.0 + step);
    }
    normalise(&state)
}
