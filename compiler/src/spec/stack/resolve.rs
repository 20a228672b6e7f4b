//! From the fields of `[stack.NAME]` to a [`Stack`]: names and sizes looked up, combinations checked.

use super::{Branch, BranchKind, BranchNorm, Coefficient, Gate, Map, Matrix, MatrixKind, Norm, Stack};
use crate::spec::forms::{Number, Tensor};
use crate::spec::read::Errors;
use crate::spec::scope::{Expect, Scope, Slot};
use crate::spec::syntax::{self, Activation, Layout, Lines, Per, Reduce, Shift, SinkhornForm};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::ops::word;
use birkhoff_ir::tensor::{Attr, Domain, F64, Op, OpKind, TensorType};
use toml::Spanned;

/// Random offsets: wide enough that the coefficients differ.
const BIAS: Domain = Domain::Normal { mean: 0.0, std: 0.5 };
/// Random factors of projections.
const SCALE: Domain = Domain::Uniform { lo: 0.5, hi: 1.5 };
/// Random weights of norms.
const NORM_WEIGHT: Domain = Domain::Normal { mean: 1.0, std: 0.1 };

/// Sizes and types that every part of a stack needs.
struct Resolver<'a> {
    scope: &'a Scope,
    errors: &'a mut Errors,
    n: Dim,
    width: Dim,
}

/// Looks up all that the stack names. Where it finds errors, what it returns is of no use.
///
/// Errors: names and sizes that do not exist, fields that contradict each other or are missing.
pub fn resolve(written: &Spanned<syntax::Stack>, scope: &Scope, errors: &mut Errors) -> Option<Stack> {
    let fields = written.get_ref();
    // A size that is at fault is told once; any other stands for it, so that the rest is looked at too.
    let tokens = scope.dim(&fields.tokens, errors).unwrap_or_default();
    let n = scope.static_dim(&fields.n, "the number of streams", errors).unwrap_or_default();
    let width = scope.static_dim(&fields.width, "the width of a stream", errors).unwrap_or_default();
    let layers = fields
        .layers
        .as_ref()
        .map(|size| scope.static_dim(size, "the number of layers", errors).unwrap_or_default());
    let mut resolver = Resolver { scope, errors, n: n.clone(), width: width.clone() };
    let normal = Domain::default();
    let streams_type = TensorType::new(scope.storage, vec![tokens.clone(), n.clone(), width.clone()]);
    let streams = scope.slot(&fields.streams, streams_type, normal, resolver.errors);
    let hidden_type = TensorType::new(scope.storage, vec![tokens.clone(), width.clone()]);
    let expand = fields
        .expand
        .as_ref()
        .and_then(|tensor| scope.slot(tensor, hidden_type.clone(), normal, resolver.errors));
    let matrix = fields.res.as_ref().and_then(|res| resolver.matrix(res));
    let gate = resolver.stack_gate(fields);
    let branch = fields.branch.as_ref().and_then(|branch| resolver.branch(branch, hidden_type));
    let head = fields.head.as_ref().and_then(|head| resolver.head(head.get_ref()));
    resolver.check_reduce(fields);
    Some(Stack {
        layers,
        n,
        tokens,
        width,
        storage: scope.storage,
        compute: scope.compute,
        streams: streams?,
        expand,
        reduce: fields.reduce.as_ref().map(|reduce| *reduce.get_ref()),
        gate: gate?,
        matrix,
        branch,
        head,
        span: written.span(),
    })
}

impl Resolver<'_> {
    fn weights(&self, shape: Vec<Dim>) -> TensorType {
        TensorType::new(self.scope.weights, shape)
    }

    fn slot(&mut self, tensor: &Option<Spanned<Tensor>>, shape: Vec<Dim>, domain: Domain) -> Option<Slot> {
        let ty = self.weights(shape);
        self.scope.slot(tensor.as_ref()?, ty, domain, self.errors)
    }

    fn number(&mut self, number: &Option<Spanned<Number>>, expect: Expect) -> Option<Attr> {
        self.scope.number(number.as_ref()?, expect, self.errors)
    }

    /// A matrix weight from `from` to `to` elements.
    fn matrix_weight(
        &mut self,
        tensor: &Option<Spanned<Tensor>>,
        layout: Layout,
        from: &Dim,
        to: &Dim,
    ) -> Option<Slot> {
        let shape = match layout {
            Layout::InOut => vec![from.clone(), to.clone()],
            Layout::OutIn => vec![to.clone(), from.clone()],
        };
        let domain = self.scope.weight_domain(from);
        self.slot(tensor, shape, domain)
    }

    fn norm(&mut self, norm: &Spanned<syntax::Norm>) -> Option<Norm> {
        let fields = norm.get_ref();
        let eps = self.scope.number(&fields.eps, Expect::NotNegative, self.errors);
        let n_elems = match fields.per {
            Per::Token => self.n.mul(&self.width),
            Per::Stream => self.width.clone(),
        };
        let weight = self.slot(&fields.weight, vec![n_elems], NORM_WEIGHT);
        Some(Norm { per: fields.per, eps: eps?, weight })
    }

    /// `pre`, `post` and `res`, as far as the stack has them.
    fn stack_gate(&mut self, fields: &syntax::Stack) -> Option<Gate> {
        let n = self.n.clone();
        let mut coefficients = vec![];
        for (name, field) in [("pre", &fields.pre), ("post", &fields.post)] {
            if let Some(field) = field {
                coefficients.push((name, vec![n.clone()], field.clone()));
            }
        }
        if let Some(res) = &fields.res {
            let span = res.span();
            let res = res.get_ref();
            let shape = match &res.birkhoff {
                Some(birkhoff) => vec![self.scope.static_dim(
                    &birkhoff.get_ref().terms,
                    "the number of permutations",
                    self.errors,
                )?],
                None => vec![n.clone(), n],
            };
            let plain = syntax::Coefficient {
                weight: res.weight.clone(),
                scale: res.scale.clone(),
                bias: res.bias.clone(),
                fixed: res.fixed,
                activation: Activation::None,
                multiplier: None,
                eps: None,
            };
            coefficients.push(("res", shape, Spanned::new(span, plain)));
        }
        self.gate(fields.norm.as_ref(), fields.projection.as_ref(), coefficients)
    }

    fn head(&mut self, head: &syntax::Head) -> Option<Gate> {
        let mix = ("mix", vec![self.n.clone()], head.mix.clone());
        self.gate(head.norm.as_ref(), head.projection.as_ref(), vec![mix])
    }

    fn gate(
        &mut self,
        norm: Option<&Spanned<syntax::Norm>>,
        projection: Option<&Spanned<syntax::Projection>>,
        written: Vec<(&'static str, Vec<Dim>, Spanned<syntax::Coefficient>)>,
    ) -> Option<Gate> {
        let mut gate = Gate { norm: norm.and_then(|norm| self.norm(norm)), ..Gate::default() };
        if let Some(projection) = projection {
            gate.per = projection.get_ref().per;
            gate.layout = projection.get_ref().layout;
            gate.span = projection.span();
        }
        let shared = projection.map(Spanned::get_ref);
        for (name, shape, field) in written {
            if self.check_coefficient(name, &field, shared) {
                gate.coefficients.extend(self.coefficient(name, shape, &field, &gate));
            }
        }
        if let Some(projection) = shared {
            self.order_columns(projection, &mut gate);
            self.packed(projection, &mut gate);
        }
        Some(gate)
    }

    /// Whether the sources of a coefficient are said once and only once.
    fn check_coefficient(
        &mut self,
        name: &str,
        written: &Spanned<syntax::Coefficient>,
        projection: Option<&syntax::Projection>,
    ) -> bool {
        let (field, span) = (written.get_ref(), written.span());
        let shared = |part: fn(&syntax::Projection) -> &Option<Spanned<Tensor>>| {
            projection.is_some_and(|projection| part(projection).is_some())
        };
        if field.fixed {
            for (part, tensor) in [("weight", &field.weight), ("scale", &field.scale)] {
                if let Some(tensor) = tensor {
                    self.errors.add(tensor.span(), format!("`{name}` is static: it has no `{part}`"));
                }
            }
            if field.bias.is_none() {
                self.errors.add(span, format!("`{name}` is static, so its `bias` is all there is: name it"));
                return false;
            }
            return true;
        }
        let both = [
            ("weight", &field.weight, shared(|projection| &projection.weight)),
            ("scale", &field.scale, shared(|projection| &projection.scale)),
            ("bias", &field.bias, shared(|projection| &projection.bias)),
        ];
        for (part, own, shared) in both {
            if let (Some(own), true) = (own, shared) {
                self.errors
                    .add(own.span(), format!("`{name}` has a `{part}` here and another in the projection"))
                    .help = "name one of them".into();
            }
        }
        if projection.is_none() {
            self.errors
                .add(span, format!("`{name}` depends on the token, but there is no projection"))
                .help = "add the table `projection`, or say static = true and name its `bias`".into();
            return false;
        }
        if field.weight.is_none() && !shared(|projection| &projection.weight) {
            self.errors.add(span, format!("`{name}` has no projection weight")).help =
                "name a `weight` here or in the projection, or say static = true".into();
            return false;
        }
        true
    }

    fn coefficient(
        &mut self,
        name: &'static str,
        shape: Vec<Dim>,
        written: &Spanned<syntax::Coefficient>,
        gate: &Gate,
    ) -> Option<Coefficient> {
        let field = written.get_ref();
        let coefficient = Coefficient {
            name,
            fixed: field.fixed,
            weight: None,
            scale: None,
            bias: None,
            activation: field.activation,
            multiplier: self.number(&field.multiplier, Expect::Real),
            eps: self.number(&field.eps, Expect::NotNegative),
            span: written.span(),
            shape,
        };
        if gate.per == Per::Stream && coefficient.shape.first() != Some(&self.n) && !field.fixed {
            self.errors
                .add(
                    written.span(),
                    format!("`{name}` has no number for each stream, so streams cannot be projected alone"),
                )
                .help = "project per = \"token\", or say static = true".into();
            return None;
        }
        let columns = columns(&coefficient, gate.per);
        let from = self.projected(gate.per);
        let weight = match (gate.per, columns.is_const(1)) {
            (Per::Stream, true) => {
                let domain = self.scope.weight_domain(&from);
                self.slot(&field.weight, vec![from], domain)
            }
            _ => self.matrix_weight(&field.weight, gate.layout, &from, &columns),
        };
        let bias = self.slot(&field.bias, coefficient.shape.clone(), BIAS);
        Some(Coefficient { weight, scale: self.slot(&field.scale, vec![], SCALE), bias, ..coefficient })
    }

    /// Number of elements that one projection reads.
    fn projected(&self, per: Per) -> Dim {
        match per {
            Per::Token => self.n.mul(&self.width),
            Per::Stream => self.width.clone(),
        }
    }

    /// Sorts the coefficients as `columns` says.
    fn order_columns(&mut self, projection: &syntax::Projection, gate: &mut Gate) {
        let Some(columns) = &projection.columns else { return };
        if projection.weight.is_none() {
            let message = "`columns` orders the parts of one weight, and there is none";
            self.errors.add(columns.span(), message).help = "name the projection's `weight`".into();
            return;
        }
        let written: Vec<&str> = columns.get_ref().iter().map(|name| name.get_ref().as_str()).collect();
        let mut expected: Vec<&str> = dynamic(gate).map(|coefficient| coefficient.name).collect();
        let mut sorted = written.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        if sorted != expected {
            self.errors.add(
                columns.span(),
                format!(
                    "`columns` must name {}, each once, found {}",
                    expected.join(", "),
                    written.join(", ")
                ),
            );
            return;
        }
        gate.coefficients
            .sort_by_key(|coefficient| written.iter().position(|name| *name == coefficient.name));
    }

    /// The weight, factors and offsets that coefficients share.
    fn packed(&mut self, projection: &syntax::Projection, gate: &mut Gate) {
        let total =
            dynamic(gate).fold(Dim::default(), |sum, coefficient| sum.add(&columns(coefficient, gate.per)));
        let count = dynamic(gate).count() as i64;
        let from = self.projected(gate.per);
        gate.weight = self.matrix_weight(&projection.weight, gate.layout, &from, &total);
        gate.scale = self.slot(&projection.scale, vec![Dim::constant(count)], SCALE);
        let bias_shape = match gate.per {
            Per::Token => vec![total],
            Per::Stream => vec![self.n.clone(), total],
        };
        gate.bias = self.slot(&projection.bias, bias_shape, BIAS);
    }

    fn matrix(&mut self, written: &Spanned<syntax::Mixing>) -> Option<Matrix> {
        let res = written.get_ref();
        let mut kinds = vec![];
        if let Some(sinkhorn) = &res.sinkhorn {
            kinds.push(self.sinkhorn(sinkhorn.get_ref()).map(MatrixKind::Sinkhorn));
        }
        if let Some(birkhoff) = &res.birkhoff {
            kinds.push(self.birkhoff(birkhoff.get_ref()).map(MatrixKind::Birkhoff));
        }
        if let Some(orthostochastic) = &res.orthostochastic {
            let iters = self.scope.number(&orthostochastic.get_ref().iters, Expect::Count, self.errors);
            let op = iters.map(|iters| Op::new(OpKind::NewtonSchulz, vec![iters]));
            kinds.push(op.map(MatrixKind::Orthostochastic));
        }
        if res.unconstrained {
            kinds.push(Some(MatrixKind::Unconstrained));
        }
        if kinds.len() != 1 {
            self.errors
                .add(written.span(), format!("expected one way to make the matrix, found {}", kinds.len()))
                .help = "give one of `sinkhorn`, `birkhoff`, `orthostochastic` and `unconstrained`".into();
            return None;
        }
        let kind = kinds.pop()??;
        Some(Matrix { kind, orientation: res.orientation })
    }

    fn birkhoff(&mut self, birkhoff: &syntax::Birkhoff) -> Option<Slot> {
        let terms = self.scope.static_dim(&birkhoff.terms, "the number of permutations", self.errors)?;
        let ty = self.weights(vec![terms, self.n.clone(), self.n.clone()]);
        let domain = Domain::Uniform { lo: 0.0, hi: 1.0 };
        self.scope.slot(&birkhoff.permutations, ty, domain, self.errors)
    }

    fn sinkhorn(&mut self, fields: &syntax::Sinkhorn) -> Option<Op> {
        let iters = self.scope.number(&fields.iters, Expect::Count, self.errors);
        let eps = self.number(&fields.eps, Expect::NotNegative);
        let tau = self.number(&fields.tau, Expect::Positive);
        let stop_shift = self.number(&fields.stop_shift, Expect::Flag);
        if let (SinkhornForm::Log, Some(eps)) = (fields.form, &fields.eps) {
            self.errors.add(eps.span(), "the log form adds no `eps`: it divides by no sum").help =
                "leave `eps` out".into();
        }
        let form = match fields.form {
            SinkhornForm::Exp => "exp",
            SinkhornForm::Softmax => "softmax",
            SinkhornForm::Log => "log",
        };
        for (name, span) in [
            ("shift", fields.shift.as_ref().map(Spanned::span)),
            ("stop_shift", fields.stop_shift.as_ref().map(Spanned::span)),
        ] {
            if let (Some(span), true) = (span, fields.form != SinkhornForm::Exp) {
                self.errors
                    .add(span, format!("`{name}` belongs to form = \"exp\", this is form = \"{form}\""))
                    .help = "leave it out: this form shifts its own logits".into();
            }
        }
        let first = match fields.first {
            Lines::Rows => "rows",
            Lines::Columns => "columns",
        };
        // The shift that the first normalisation cancels changes nothing but the range of the exponentials.
        let shift = match fields.shift.as_ref().map(Spanned::get_ref) {
            None => first,
            Some(Shift::Columns) => "columns",
            Some(Shift::Rows) => "rows",
            Some(Shift::Matrix) => "matrix",
            Some(Shift::None) => "none",
        };
        let zero = Attr::Float(F64(0.0));
        Some(Op::new(
            OpKind::Sinkhorn,
            vec![
                word(form),
                word(first),
                iters?,
                eps.unwrap_or(zero),
                tau.unwrap_or(Attr::Float(F64(1.0))),
                word(shift),
                stop_shift.unwrap_or(Attr::Bool(false)),
            ],
        ))
    }

    fn branch(&mut self, written: &Spanned<syntax::Branch>, y_type: TensorType) -> Option<Branch> {
        let fields = written.get_ref();
        let norm = fields.norm.as_ref().and_then(|norm| self.branch_norm(norm.get_ref()));
        let width = vec![self.width.clone()];
        let mut kinds = vec![];
        if let Some(input) = &fields.input {
            if let Some(norm) = &fields.norm {
                self.errors.add(norm.span(), "a branch that is an input has no norm here").help =
                    "normalise where the branch is computed".into();
            }
            let slot = self.scope.slot(input, y_type, Domain::default(), self.errors);
            kinds.push(slot.map(BranchKind::Input));
        }
        if let Some(linear) = &fields.linear {
            let linear = linear.get_ref();
            let wide = self.width.clone();
            let weight = self.matrix_weight(&Some(linear.weight.clone()), linear.layout, &wide, &wide);
            let bias = self.slot(&linear.bias, width.clone(), BIAS);
            let (layout, activation) = (linear.layout, linear.activation);
            let map = weight.map(|weight| Map { weight, layout, bias, activation });
            kinds.push(map.map(|map| BranchKind::Maps(vec![map])));
        }
        if let Some(mlp) = &fields.mlp {
            kinds.push(self.mlp(mlp.get_ref()).map(BranchKind::Maps));
        }
        if kinds.is_empty() && fields.norm.is_some() {
            kinds.push(Some(BranchKind::Maps(vec![])));
        }
        if kinds.len() != 1 {
            self.errors
                .add(written.span(), format!("expected one kind of branch, found {}", kinds.len()))
                .help = "give one of `input`, `linear` and `mlp`, or `norm` alone".into();
            return None;
        }
        let kind = kinds.pop()??;
        Some(Branch { norm, kind })
    }

    fn branch_norm(&mut self, norm: &syntax::BranchNorm) -> Option<BranchNorm> {
        let eps = self.scope.number(&norm.eps, Expect::NotNegative, self.errors);
        let width = vec![self.width.clone()];
        let weight = self.slot(&norm.weight, width.clone(), NORM_WEIGHT);
        let bias = self.slot(&norm.bias, width, BIAS);
        Some(BranchNorm { kind: norm.kind, eps: eps?, weight, bias })
    }

    fn mlp(&mut self, mlp: &syntax::Mlp) -> Option<Vec<Map>> {
        let hidden = self.scope.static_dim(&mlp.hidden, "the width between the maps", self.errors)?;
        let width = self.width.clone();
        let up = self.matrix_weight(&Some(mlp.up.clone()), mlp.layout, &width, &hidden);
        let up_bias = self.slot(&mlp.up_bias, vec![hidden.clone()], BIAS);
        let down = self.matrix_weight(&Some(mlp.down.clone()), mlp.layout, &hidden, &width);
        let down_bias = self.slot(&mlp.down_bias, vec![width], BIAS);
        let layout = mlp.layout;
        let first = Map { weight: up?, layout, bias: up_bias, activation: mlp.activation };
        let second = Map { weight: down?, layout, bias: down_bias, activation: Activation::None };
        Some(vec![first, second])
    }

    fn check_reduce(&mut self, fields: &syntax::Stack) {
        let by_head = fields.reduce.as_ref().is_some_and(|reduce| *reduce.get_ref() == Reduce::Head);
        match (&fields.reduce, &fields.head) {
            (Some(reduce), None) if by_head => {
                self.errors.add(reduce.span(), "reduce = \"head\" needs the table `head`");
            }
            (_, Some(head)) if !by_head => {
                self.errors.add(head.span(), "the table `head` belongs to reduce = \"head\"");
            }
            _ => {}
        }
    }
}

/// Coefficients that depend on the token, in the order of their columns.
pub fn dynamic(gate: &Gate) -> impl Iterator<Item = &Coefficient> {
    gate.coefficients.iter().filter(|coefficient| !coefficient.fixed)
}

/// Number of columns that a coefficient has in a projection.
pub fn columns(coefficient: &Coefficient, per: Per) -> Dim {
    let own = match per {
        Per::Token => coefficient.shape.as_slice(),
        Per::Stream => coefficient.shape.get(1..).unwrap_or(&[]),
    };
    own.iter().fold(Dim::constant(1), |product, dim| product.mul(dim))
}
