//! Freezes what `stop_gradient` gives: a function in which these values are arguments.
//!
//! In: a function of a bound module. Out: the function with these values as further results, and the function with them as
//! further arguments, both in primitives. With the arguments computed at a point, the second function has the value of the
//! first at that point, and its derivative *in the usual sense* is what `stop_gradient` asks of derivatives: so finite
//! differences of it can be compared with them.
//!
//! A loop gives a value per iteration: the recording body stacks it, the frozen body scans it; loops in loops stack stacks.
//! Integers and truth values stay where they are, their derivatives are zero anyway. Deliberately absent: numbers.

use crate::expand::expand;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::{Attr, Domain, Func, FuncId, Module, Node, OpKind, TensorType, ValueId};
use std::collections::BTreeMap;

/// A function in two versions.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Holds both.
    pub module: Module,
    /// Takes what the function takes; gives what it gives, then the values of every float `stop_gradient`, stacked over the
    /// loops around it.
    pub recorded: FuncId,
    /// Takes what the function takes, then these values; gives what the function gives.
    pub frozen: FuncId,
    /// How many such values there are.
    pub n_stops: usize,
}

/// Freezes `func`.
///
/// Errors: as [`expand`].
pub fn freeze(module: &Module, func: FuncId) -> Result<Frozen, String> {
    let (module, func) = expand(module, func)?;
    let mut walk = Walk { module, bodies: BTreeMap::new() };
    let pair = walk.pair(func, None)?;
    let n_stops = pair.stops.len();
    Ok(Frozen { module: walk.module, recorded: pair.recorded, frozen: pair.frozen, n_stops })
}

/// Both versions of a function.
#[derive(Clone)]
struct Pair {
    recorded: FuncId,
    frozen: FuncId,
    /// The types of the frozen values, in order.
    stops: Vec<TensorType>,
}

struct Walk {
    module: Module,
    /// Loop bodies by their place and the number of arguments before the frozen ones.
    bodies: BTreeMap<(FuncId, usize), Pair>,
}

/// Whether the node is a `stop_gradient` of floats.
fn is_stop(func: &Func, node: &Node) -> bool {
    node.op.kind == OpKind::StopGradient && func.ty(node.results[0]).dtype.is_float()
}

impl Walk {
    /// Both versions of `id`. Frozen values are arguments from position `place` on, or the last ones.
    fn pair(&mut self, id: FuncId, place: Option<usize>) -> Result<Pair, String> {
        let func = self.module.func(id).clone();
        let place = place.unwrap_or(func.inputs.len());
        let mut loops = BTreeMap::new();
        for (idx, node) in func.nodes.iter().enumerate() {
            if let (OpKind::Loop, Some(body)) = (node.op.kind, node.op.body()) {
                let (carry, scan) = node.op.loop_counts(&self.module)?;
                let first = carry + scan;
                let pair = match self.bodies.get(&(body, first)) {
                    Some(known) => known.clone(),
                    None => self.pair(body, Some(first))?,
                };
                self.bodies.insert((body, first), pair.clone());
                if !pair.stops.is_empty() {
                    loops.insert(idx, pair);
                }
            }
        }
        let (recorded, stops) = self.record(&func, &loops)?;
        let frozen = self.replace(&func, &loops, place, &stops)?;
        Ok(Pair { recorded, frozen, stops })
    }

    /// The version with further results, and their types.
    fn record(
        &mut self,
        func: &Func,
        loops: &BTreeMap<usize, Pair>,
    ) -> Result<(FuncId, Vec<TensorType>), String> {
        let mut b = Builder::new(&mut self.module, format!("{}_recorded", func.name));
        let mut map = vec![ValueId(0); func.values.len()];
        for (input, value) in func.inputs.iter().zip(func.input_values()) {
            map[value.0 as usize] = b.input(input.name.clone(), func.ty(value).clone(), input.domain)?;
        }
        let mut stops = vec![];
        for (idx, node) in func.nodes.iter().enumerate() {
            let args: Vec<ValueId> = node.args.iter().map(|arg| map[arg.0 as usize]).collect();
            b.set_span(node.span);
            let mut op = node.op.clone();
            if let Some(pair) = loops.get(&idx) {
                op.attrs[0] = Attr::Func(pair.recorded);
            }
            let mut results = b.op(op, &args)?;
            stops.extend(results.split_off(node.results.len()));
            if is_stop(func, node) {
                stops.push(results[0]);
            }
            node.results.iter().zip(results).for_each(|(old, new)| map[old.0 as usize] = new);
        }
        for out in &func.outputs {
            b.output(out.name.clone(), map[out.value.0 as usize])?;
        }
        let types = stops.iter().map(|stop| b.ty(*stop).clone()).collect();
        for (idx, stop) in stops.iter().enumerate() {
            b.fresh_output(&format!("stop.{idx}"), *stop)?;
        }
        Ok((b.finish_at(func.span), types))
    }

    /// The version with further arguments of the types `stops`, from position `place` on.
    fn replace(
        &mut self,
        func: &Func,
        loops: &BTreeMap<usize, Pair>,
        place: usize,
        stops: &[TensorType],
    ) -> Result<FuncId, String> {
        let counts: Result<Vec<(usize, usize)>, String> =
            loops.keys().map(|idx| func.nodes[*idx].op.loop_counts(&self.module)).collect();
        let counts: BTreeMap<usize, (usize, usize)> = loops.keys().copied().zip(counts?).collect();
        let mut b = Builder::new(&mut self.module, format!("{}_frozen", func.name));
        let (mut map, given) = arguments(&mut b, func, place, stops)?;
        map.resize(func.values.len(), ValueId(0));
        let mut given = given.into_iter();
        for (idx, node) in func.nodes.iter().enumerate() {
            let mut args: Vec<ValueId> = node.args.iter().map(|arg| map[arg.0 as usize]).collect();
            b.set_span(node.span);
            if is_stop(func, node) {
                let stop = given.next().ok_or("a frozen value is missing")?;
                map[node.results[0].0 as usize] = stop;
                continue;
            }
            let mut op = node.op.clone();
            if let (Some(pair), Some((carry, scan))) = (loops.get(&idx), counts.get(&idx)) {
                let stacks: Vec<ValueId> = given.by_ref().take(pair.stops.len()).collect();
                args.splice(carry + scan..carry + scan, stacks);
                op.attrs[0] = Attr::Func(pair.frozen);
                op.attrs[3] = Attr::Int((scan + pair.stops.len()) as i64);
            }
            let results = b.op(op, &args)?;
            node.results.iter().zip(results).for_each(|(old, new)| map[old.0 as usize] = new);
        }
        for out in &func.outputs {
            b.output(out.name.clone(), map[out.value.0 as usize])?;
        }
        Ok(b.finish_at(func.span))
    }
}

/// The arguments of `func`, with further ones of the types `stops` from position `place` on.
fn arguments(
    b: &mut Builder<'_>,
    func: &Func,
    place: usize,
    stops: &[TensorType],
) -> Result<(Vec<ValueId>, Vec<ValueId>), String> {
    let own = |b: &mut Builder<'_>, range: std::ops::Range<usize>| -> Result<Vec<ValueId>, String> {
        let inputs = func.inputs[range.clone()].iter().zip(&func.values[range]);
        inputs.map(|(input, value)| b.input(input.name.clone(), value.ty.clone(), input.domain)).collect()
    };
    let place = place.min(func.inputs.len());
    let mut arguments = own(b, 0..place)?;
    let mut given = vec![];
    for (idx, ty) in stops.iter().enumerate() {
        given.push(b.input(format!("stop.{}.{idx}", func.name), ty.clone(), Domain::default())?);
    }
    arguments.extend(own(b, place..func.inputs.len())?);
    Ok((arguments, given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use birkhoff_ir::dim::SizeEnv;
    use birkhoff_ir::dtype::DType;
    use birkhoff_ir::tensor::eval::{Tensor, eval};
    use birkhoff_ir::tensor::text::parse;
    use birkhoff_ir::tensor::verify;

    /// A loop in a loop, the inner one reversed; the stopped values differ at every iteration.
    const NESTED: &str = "
        fn @inner(%s: f64[], %w: f64[], %y: f64[]) -> (s: f64[]) {
          %q = %s * %w + %y
          %k = stop_gradient(%q)
          return s = %q * %k
        }
        fn @outer(%s: f64[], %w: f64[3], %y: f64[]) -> (s: f64[]) {
          %t = loop(%s, %w, %y) {body=@inner, trip=3, carry=1, scan=1, reverse=true}
          %k = stop_gradient(%t)
          return s = sin(%t) + %k
        }
        export fn @f(%x: f64[], %w: f64[3], %y: f64[]) -> (z: f64[]) {
          %z = loop(%x, %w, %y) {body=@outer, trip=2, carry=1}
          return z = %z
        }";

    fn numbers(x: f64, y: f64) -> Vec<Tensor> {
        let tensor =
            |shape: Vec<usize>, values: &[f64]| Tensor::from_f64s(DType::F64, shape, values).unwrap();
        vec![tensor(vec![], &[x]), tensor(vec![3], &[0.5, -0.7, 1.1]), tensor(vec![], &[y])]
    }

    #[test]
    fn values_of_nested_loops_are_recorded_and_put_back() {
        let module = parse(NESTED).unwrap();
        let func = module.find("f").unwrap();
        let frozen = freeze(&module, func).unwrap();
        verify(&frozen.module).unwrap();
        assert_eq!(frozen.n_stops, 2);
        let run =
            |func: FuncId, inputs: &[Tensor]| eval(&frozen.module, func, &SizeEnv::new(), inputs).unwrap();
        let plain = eval(&module, func, &SizeEnv::new(), &numbers(0.4, 0.3)).unwrap();
        let recorded = run(frozen.recorded, &numbers(0.4, 0.3));
        assert_eq!(recorded[0], plain[0]);
        assert_eq!((recorded[1].shape(), recorded[2].shape()), (&[2, 3][..], &[2][..]));
        let mut inputs = numbers(0.4, 0.3);
        inputs.extend_from_slice(&recorded[1..]);
        assert_eq!(run(frozen.frozen, &inputs), plain);
        // Elsewhere the two differ, because the values stay.
        let mut moved = numbers(0.5, 0.3);
        moved.extend_from_slice(&recorded[1..]);
        assert_ne!(run(frozen.frozen, &moved), run(frozen.recorded, &numbers(0.5, 0.3))[..1]);
    }

    #[test]
    fn a_function_without_it_is_left_alone() {
        let module = parse("export fn @f(%x: f64[]) -> (y: f64[]) { return y = exp(%x) }").unwrap();
        let frozen = freeze(&module, FuncId(0)).unwrap();
        assert_eq!(frozen.n_stops, 0);
        let (one, other) = (frozen.module.func(frozen.recorded), frozen.module.func(frozen.frozen));
        assert_eq!((&one.nodes, &one.inputs), (&other.nodes, &other.inputs));
    }
}
