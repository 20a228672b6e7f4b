//! Token stages: places of the tile as lanes, everything else unrolled, loops with their state in registers.

use super::nest::Work;
use super::value::{Lowering, places};
use crate::schedule::axes::Class;
use crate::schedule::graph::{N, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{ForKind, Index, Local, Mem, Space, Var};

impl Lowering<'_> {
    /// Emits a token stage over `width` lanes, for the places of the tile before `end`, which may be beyond the last only where
    /// it touches tile memory alone. Along `rolled` there are loops; everything else is unrolled.
    pub fn tokens(&mut self, work: &[Work], loops: &[N], width: u32, end: Index, rolled: &[Class]) {
        let Some((_, base, _)) = self.tile_axis() else {
            return self.rolled_work(work, loops, rolled);
        };
        let kind = if width > 1 { ForKind::Lanes { width } } else { ForKind::Seq };
        let token = self.emitter.open_for("t", 0.into(), end, kind, None);
        self.set_token(&Index::var(token));
        self.rolled_work(work, loops, rolled);
        self.close();
        if let Some(class) = self.tile_class {
            self.at.insert(class, Index::var(base));
        }
    }

    /// Everything for one place (or a vector of places) of the tile, in loops along `rolled`.
    fn rolled_work(&mut self, work: &[Work], loops: &[N], rolled: &[Class]) {
        for class in rolled {
            let extent = self.walk.axes.extent(*class).clone();
            let end = Index::constant(extent.clone());
            let var = self.emitter.open_for("k", 0.into(), end, ForKind::Seq, Some(extent));
            self.at.insert(*class, Index::var(var));
            self.rolled.push(*class);
        }
        self.token_work(work, loops);
        for class in rolled {
            self.close();
            self.at.remove(class);
        }
        self.rolled.clear();
    }

    /// Everything for one place (or a vector of places) of the tile. `work` is in program order; `loops` says which of its
    /// nodes are loops.
    fn token_work(&mut self, work: &[Work], loops: &[N]) {
        for item in work {
            match item {
                Work::Sum(node) if loops.contains(node) => self.token_loop(*node),
                Work::Sum(node) => {
                    for result in self.walk.graph.nodes[*node].results.clone() {
                        self.token_map(result);
                    }
                }
                Work::Map { to, .. } => self.token_map(*to),
                // Slices of a token loop are written inside the loop.
                Work::Stack { .. } | Work::Fill(_) => {}
            }
        }
    }

    /// Computes all elements of `value` and writes them wherever they are wanted.
    fn token_map(&mut self, value: V) {
        self.each_token_element(value, &mut |this, coords, _| {
            let var = this.value(value, coords);
            this.store_all(value, coords, var);
        });
    }

    /// Runs `emit` for every element of `value` at the present place of the tile.
    fn each_token_element(&mut self, value: V, emit: &mut dyn FnMut(&mut Self, &[Index], i64)) {
        let classes: Vec<Class> = self.token_classes(value);
        let extents: Vec<i64> =
            classes.iter().map(|class| self.walk.axes.extent(*class).as_const().unwrap_or(0)).collect();
        for (number, place) in places(&extents).into_iter().enumerate() {
            for (class, idx) in classes.iter().zip(place) {
                self.at.insert(*class, Index::constant(idx));
            }
            let coords = self.coords_here(value);
            emit(self, &coords, number as i64);
        }
        for class in classes {
            self.at.remove(&class);
        }
    }

    /// The classes of `value` beside the batch and the loops around.
    fn token_classes(&self, value: V) -> Vec<Class> {
        let around =
            |class: &Class| self.rolled.contains(class) || self.batch.iter().any(|(batch, _)| batch == class);
        self.walk.axes.of_value(value).into_iter().filter(|class| !around(class)).collect()
    }

    fn state(&mut self, value: V) -> Mem {
        let classes = self.token_classes(value);
        let n_elems: i64 =
            classes.iter().map(|class| self.walk.axes.extent(*class).as_const().unwrap_or(0)).product();
        let dtype = self.walk.graph.values[value].ty.dtype.compute();
        self.emitter.local(Local {
            name: format!("state{}", self.emitter.func.locals.len()).into(),
            dtype,
            shape: vec![Dim::constant(n_elems)],
            space: Space::Reg,
            lane_axis: None,
        })
    }

    /// An on-chip loop with its state in registers.
    fn token_loop(&mut self, node: N) {
        let graph = self.walk.graph;
        let gnode = graph.nodes[node].clone();
        let Some(body) = gnode.body else { return };
        let region = graph.regions[body].clone();
        let states: Vec<Mem> =
            region.inputs[..region.n_carry].iter().map(|input| self.state(*input)).collect();
        for (idx, state) in states.iter().enumerate() {
            let initial = gnode.args[idx];
            // The initial value has the same axes, be they of other classes.
            self.each_token_element(region.inputs[idx], &mut |this, coords, number| {
                let var = this.value(initial, coords);
                this.emitter.store(*state, vec![Index::constant(number)], var);
            });
        }
        let trip = Index::constant(region.trip.clone());
        let iteration =
            self.emitter.open_for("iter", 0.into(), trip, ForKind::Seq, Some(region.trip.clone()));
        self.iteration.insert(body, Index::var(iteration));
        for (idx, state) in states.iter().enumerate() {
            let input = region.inputs[idx];
            self.each_token_element(input, &mut |this, coords, number| {
                let var = this.emitter.load_now(*state, vec![Index::constant(number)]);
                this.remember(input, coords, var);
            });
        }
        self.loop_stacks(&gnode.results, &region.outputs, region.n_carry, body);
        let mut next: Vec<Vec<Var>> = vec![];
        for output in &region.outputs[..region.n_carry] {
            let mut vars = vec![];
            self.each_token_element(*output, &mut |this, coords, _| vars.push(this.value(*output, coords)));
            next.push(vars);
        }
        for (state, vars) in states.iter().zip(next) {
            for (number, var) in vars.into_iter().enumerate() {
                self.emitter.store(*state, vec![Index::constant(number as i64)], var);
            }
        }
        self.iteration.remove(&body);
        self.close();
        for (result, state) in gnode.results.iter().zip(&states) {
            self.each_token_element(*result, &mut |this, coords, number| {
                let var = this.emitter.load_now(*state, vec![Index::constant(number)]);
                this.remember(*result, coords, var);
                this.store_all(*result, coords, var);
            });
        }
        for stack in gnode.results.iter().skip(region.n_carry) {
            self.make_readable(*stack);
        }
    }

    /// Writes this iteration's slices of the stacks among a loop's results.
    fn loop_stacks(&mut self, results: &[V], outputs: &[V], n_carry: usize, body: usize) {
        for (result, output) in results.iter().zip(outputs).skip(n_carry) {
            let slice = self.slice_index(body);
            self.each_token_element(*output, &mut |this, coords, _| {
                let var = this.value(*output, coords);
                let mut full = vec![slice.clone()];
                full.extend(coords.iter().cloned());
                this.store_all(*result, &full, var);
            });
        }
    }
}
