//! No text makes the parser of specs panic, overflow the stack or take long: nesting, numbers, cuts and exchanged bytes.

use birkhoff_compiler::spec::parse;

const SPEC: &str = include_str!("../../examples/mhc_stack.toml");
const STATEMENTS: &str = include_str!("../../tests/specs/realnvp_volume.toml");

#[test]
fn deep_nesting_is_an_error() {
    let deep = 10_000;
    for text in [
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}1{}", "{ b = ".repeat(deep), " }".repeat(deep)),
        format!("a = {}", "[".repeat(deep)),
        format!("[{}]", vec!["a"; deep].join(".")),
        format!("[dims]\n{} = 1", vec!["a"; deep].join(".")),
        "[stack.".repeat(deep),
        format!(
            "[fn.f]\ninputs = {{ x = \"f32[]\" }}\nbody = \"y = {}x{}\"\noutputs = [\"y\"]",
            "(".repeat(deep),
            ")".repeat(deep)
        ),
        format!(
            "[fn.f]\ninputs = {{ x = \"f32[]\" }}\nbody = \"y = {}x\"\noutputs = [\"y\"]",
            "-".repeat(deep)
        ),
        format!(
            "[fn.f]\ninputs = {{ x = \"f32[{}]\" }}\nbody = \"y = x\"\noutputs = [\"y\"]",
            "2*".repeat(deep)
        ),
    ] {
        assert!(parse(&text).is_err());
    }
}

#[test]
fn many_small_things_are_read_in_time() {
    let dims: String = (0..20_000).map(|number| format!("d{number} = {}\n", number + 1)).collect();
    let text =
        format!("[dims]\n{dims}[fn.f]\ninputs = {{ x = \"f32[]\" }}\nbody = \"y = x\"\noutputs = [\"y\"]");
    assert!(parse(&text).is_ok());
}

#[test]
fn huge_numbers_are_errors() {
    for number in [
        "1e999",
        "-1e999",
        "9223372036854775808",
        "99999999999999999999999999999999999999999",
        "0x7fffffffffffffffff",
        "nan",
    ] {
        for table in ["[dims]\nn", "[params]\nn"] {
            let text = format!(
                "{table} = {number}\n[fn.f]\ninputs = {{ x = \"f32[]\" }}\nbody = \"y = x\"\noutputs = [\"y\"]"
            );
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}

/// Every cut of a good spec, and pseudo-random exchanges of its bytes: an answer of either kind, and places within the text.
#[test]
fn damaged_specs_never_panic() {
    let look = |text: &str| {
        if let Err(errors) = parse(text) {
            assert!(!errors.0.is_empty());
            errors.render("damaged.toml", text);
        }
    };
    for source in [SPEC, STATEMENTS] {
        for cut in (0..source.len()).step_by(7) {
            source.get(..cut).into_iter().for_each(look);
        }
        let mut state = 1u64;
        let mut next = move |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let odd = b"\"'[]{}=,.$#\n\\*-0\x00\xff";
        for _ in 0..1000 {
            let mut bytes = source.as_bytes().to_vec();
            for _ in 0..=next(3) {
                let place = next(bytes.len());
                bytes[place] = odd[next(odd.len())];
            }
            look(&String::from_utf8_lossy(&bytes));
        }
    }
}
