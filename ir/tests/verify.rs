//! The verifier on modules that a pass might have broken: no text leads there, so each is broken by code.

use birkhoff_ir::diag::{Diagnostics, Span};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::text::parse;
use birkhoff_ir::tensor::{Attr, Def, FuncId, Module, ValueId, verify};

const GOOD: &str = "\
dim n = 4
param p = 2
fn @step(a: f32[n,n]) -> (a: f32[n,n]) {
  b = exp(a)
  return a = b
}
export fn @main(m: f32[n,n]) -> (h: f32[n,n]) {
  s = softmax(m, axis=1)
  h = loop(s, body=@step, trip=$p, carry=1)
  return h = h
}";

/// The good module without spans, as a pass leaves it.
fn good() -> Module {
    let mut module = parse(GOOD).unwrap();
    module.funcs.iter_mut().for_each(|func| func.span = Span::NONE);
    module.funcs.iter_mut().flat_map(|func| &mut func.nodes).for_each(|node| node.span = Span::NONE);
    module
}

fn messages(break_it: impl FnOnce(&mut Module)) -> String {
    let mut module = good();
    break_it(&mut module);
    match verify(&module) {
        Ok(()) => "ok".into(),
        Err(Diagnostics(errors)) => {
            errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n")
        }
    }
}

#[test]
fn a_good_module_verifies() {
    assert_eq!(messages(|_| {}), "ok");
}

#[test]
fn operands_are_defined_before_they_are_used() {
    let found = messages(|module| module.funcs[1].nodes.swap(0, 1));
    let expected = "\
in @main: `%h = loop(%s) {body=@step, trip=$p, carry=1} : f32[n,n]`: result 0 is not a value of this node alone
in @main: `%s = softmax(%m) {axis=1} : f32[n,n]`: result 0 is not a value of this node alone
in @main: value number 1 has no definition
in @main: the output `h` has no definition";
    assert_eq!(found, expected);
    let own = messages(|module| module.funcs[0].nodes[0].args[0] = ValueId(1));
    assert_eq!(
        own,
        "in @step: `%b = exp(%b) : f32[n,n]`: operand 0 is used before it is defined\n\
         in @main: `%h = loop(%s) {body=@step, trip=$p, carry=1} : f32[n,n]`: the body @step has errors"
    );
    let far = messages(|module| module.funcs[1].nodes[0].args[0] = ValueId(99));
    assert_eq!(
        far,
        "in @main: `%s = softmax(%?) {axis=1} : f32[n,n]`: operand 0 is used before it is defined"
    );
}

#[test]
fn types_are_those_of_the_type_rules() {
    let found = messages(|module| module.funcs[1].values[1].ty.dtype = DType::F64);
    let expected = "\
in @main: `%s = softmax(%m) {axis=1} : f64[n,n]`: the result must be f32[n,n], found f64[n,n]
in @main: `%h = loop(%s) {body=@step, trip=$p, carry=1} : f32[n,n]`: `loop`: operand 0 of the body @step must be f64[n,n], found f32[n,n]";
    assert_eq!(found, expected);
}

#[test]
fn attributes_are_of_their_kinds() {
    let found = messages(|module| module.funcs[1].nodes[0].op.attrs[0] = Attr::Bool(true));
    assert_eq!(
        found,
        "in @main: `%s = softmax(%m) {axis=true} : f32[n,n]`: `axis` of `softmax` must be an integer, found true"
    );
    let found = messages(|module| module.funcs[1].nodes[0].op.attrs.clear());
    assert_eq!(found, "in @main: `%s = softmax(%m) : f32[n,n]`: `softmax` has 1 attributes, found 0");
    let found = messages(|module| module.params.clear());
    assert_eq!(
        found,
        "in @main: `%h = loop(%s) {body=@step, trip=$p, carry=1} : f32[n,n]`: no parameter `p` is declared"
    );
}

#[test]
fn bodies_come_before_their_loops() {
    for id in [1, 7] {
        let found = messages(|module| module.funcs[1].nodes[1].op.attrs[0] = Attr::Func(FuncId(id)));
        let name = if id == 1 { "@main" } else { "@?7" };
        assert_eq!(
            found,
            format!(
                "in @main: `%h = loop(%s) {{body={name}, trip=$p, carry=1}} : f32[n,n]`: \
                 the body of `loop` must be declared before the function that uses it"
            )
        );
    }
}

#[test]
fn names_are_declared_and_unique() {
    let found = messages(|module| module.dims.clear());
    assert!(
        found.starts_with("the argument `a` of @step has the type f32[n,n]: no dim `n` is declared"),
        "{found}"
    );
    let found = messages(|module| module.funcs[1].name = "step".into());
    assert_eq!(found, "the function `@step` is declared twice");
    let found = messages(|module| {
        let again = module.funcs[1].outputs[0].clone();
        module.funcs[1].outputs.push(again);
    });
    assert_eq!(found, "in @main: the output `h` is returned twice");
    let found = messages(|module| module.dims.push(module.dims[0].clone()));
    assert_eq!(found, "the dim `n` is declared twice");
}

#[test]
fn values_know_where_they_come_from() {
    let found = messages(|module| module.funcs[0].values[0].def = Def::Node { node: 0, result: 0 });
    assert!(found.contains("the argument `a` of @step must be value number 0"), "{found}");
    let found = messages(|module| module.funcs[0].values.clear());
    assert!(found.contains("the argument `a` of @step must be value number 0"), "{found}");
    let found = messages(|module| module.funcs[0].values[0].ty.shape[0] = Dim::constant(-4));
    assert!(found.contains("an extent must not be negative, found -4"), "{found}");
}
