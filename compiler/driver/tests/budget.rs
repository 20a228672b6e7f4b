//! How loops are taken back: what is decided, what reports say of it, and what a memory budget changes.

#[path = "support/folder.rs"]
mod folder;
#[path = "support/ratio.rs"]
mod ratio;

use birkhoff::tensor_file::TensorFile;
use birkhoff::{Cotangents, Gradient, LoopReport, Loops, Options, Spec, Stage, Syntax, lower, schedule_of};
use folder::Folder;

/// A loss of the mean over the batch: the way back starts when the whole batch is through, so in another kernel.
fn spread(step: &str) -> String {
    format!(
        "
        [dims]
        B = {{ run = [1, 2147483648], default = 20000 }}

        [params]
        iters = 16

        [fn.step]
        export = false
        inputs = {{ x = 'f32[B,4,4]' }}
        body = \"{step}\"
        outputs = {{ x = 'next' }}

        [fn.spread]
        inputs = {{ x = {{ type = 'f32[B,4,4]', random = {{ uniform = [0.1, 0.9] }} }} }}
        body = \"\"\"
        h = loop(x, body=@step, trip=$iters, carry=1)
        mean = sum(h, [0])
        loss = sum(mean * mean, [0,1])
        \"\"\"
        outputs = ['loss']
        "
    )
}

/// Few operations for the bytes of its state.
const CHEAP: &str = "next = 3.7 * x * (1 - x)";
/// Many operations for those bytes.
const DEAR: &str = "next = softmax(x, axis=1) * tanh(exp(x)) / (1 + sqrt(1 + x * x))";

fn loops_of(text: &str, loops: Loops) -> (LoopReport, String) {
    let spec = Spec::parse(Syntax::Toml, "spread.toml", text).unwrap();
    let ask = Gradient { wrt: vec!["x".into()], cotangents: Cotangents::Unit, values: true, loops };
    let spec = spec.differentiated(&ask).unwrap();
    let stages = lower(&spec, &Options::default(), Stage::Plan, &mut |_| ()).unwrap();
    let text = schedule_of(&stages.program.unwrap()).unwrap().with_loops(&stages.loops).text();
    (stages.loops, text)
}

#[test]
fn iterates_in_memory_are_held_against_a_second_run() {
    let (cheap, text) = loops_of(&spread(CHEAP), Loops::Auto);
    let choice = cheap.choice.unwrap();
    assert!(choice.reruns() && choice.rerun_price < choice.stash_price, "{choice:?}");
    let line = "loop @step_stacked: 16 iterations, 20480000 B of iterates made on chip by a second run: ";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("\nloops: run again; price "), "{text}");

    let (dear, text) = loops_of(&spread(DEAR), Loops::Auto);
    assert!(!dear.choice.unwrap().reruns(), "{dear:?}");
    let line = "20480000 B of iterates kept in memory: the reverse is in another kernel than the loop";
    assert!(text.contains(line) && text.contains("\nloops: kept; price "), "{text}");

    // What is said is done, and nothing is decided.
    for (loops, found) in [(Loops::Stash, "kept in memory"), (Loops::Rerun, "made on chip by a second run")] {
        let (report, text) = loops_of(&spread(CHEAP), loops);
        assert!(report.choice.is_none() && text.contains(found), "{text}");
    }
}

#[test]
fn a_loop_next_to_its_reverse_keeps_its_iterates_on_chip() {
    let near = spread(CHEAP).replace("mean = sum(h, [0])", "mean = h").replace("[0,1]", "[0,1,2]");
    let (report, text) = loops_of(&near, Loops::Auto);
    assert!(report.choice.is_none() && text.contains("of iterates kept on chip: "), "{text}");
}

#[test]
fn a_budget_on_the_command_line_is_obeyed_or_the_least_is_told() {
    let folder = Folder::new();
    folder.write("spread.toml", spread(DEAR).as_bytes());
    let run = |more: &str| folder.run(&format!("run spread.toml --random 0 --grad x {more}"));
    let peak = |text: &str| -> u64 {
        let line = text.lines().find(|line| line.trim_start().starts_with("memory: peak ")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    let (stash, rerun) = (peak(&run("--loops stash").stdout), peak(&run("--loops rerun").stdout));
    assert!(stash > 4 * rerun, "{stash} {rerun}");
    assert_eq!(peak(&run("").stdout), stash, "what the price says");
    assert_eq!(peak(&run(&format!("--memory-budget {stash}")).stdout), stash);
    let within = run(&format!("--memory-budget {} -o less.safetensors", stash - 1));
    assert_eq!((within.code, within.stderr.as_str()), (Some(0), ""));
    assert_eq!(peak(&run(&format!("--memory-budget {rerun}")).stdout), rerun);
    // The same gradients, and the same as without a budget.
    run("-o more.safetensors");
    let gradient = |name: &str| {
        let file = TensorFile::open(folder.path(name)).unwrap();
        file.tensor("grad.x").unwrap().view().as_slice::<f32>().unwrap().to_vec()
    };
    let (less, more) = (gradient("less.safetensors"), gradient("more.safetensors"));
    let scale = more.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(scale > 0.0 && less.iter().zip(&more).all(|(a, b)| (a - b).abs() <= 1e-5 * scale));

    let files = folder.files();
    let refused = run(&format!("--memory-budget {} -o none.safetensors", rerun - 1)).refusal();
    assert!(refused.contains(&format!("the least is {rerun} bytes, with --loops rerun")), "{refused}");
    let forced = run(&format!("--loops stash --memory-budget {rerun}")).refusal();
    assert!(forced.contains(&format!("the least is {stash} bytes, with --loops stash")), "{forced}");
    assert_eq!(folder.files(), files);
    // The budget is for the sizes of the call.
    folder.write_f32("in.safetensors", &[("x", &[100, 4, 4])]);
    let small =
        folder.run(&format!("run spread.toml --in in.safetensors --grad x --memory-budget {}", rerun - 1));
    assert!(small.code == Some(0) && peak(&small.stdout) < rerun, "{}", small.stderr);
    let json = run("--json --loops rerun").stdout;
    assert!(json.contains(&format!("\"peak_bytes\": {rerun}")), "{json}");
    assert_eq!(folder.run("run spread.toml --random 0 --memory-budget 1000").code, Some(2));
}

#[test]
fn inspect_tells_it_as_json() {
    let folder = Folder::new();
    folder.write("spread.toml", spread(CHEAP).as_bytes());
    let done = folder.run("inspect spread.toml --grad x --stage schedule --json");
    let told: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let reversed = &told["loops"]["reversed"][0];
    assert_eq!(reversed["body"], "step_stacked");
    assert_eq!((&reversed["iterations"], &reversed["iterates"]), (&"16".into(), &"rerun_on_chip".into()));
    assert_eq!(reversed["bytes"], 20_480_000);
    assert_eq!(told["loops"]["choice"]["taken"], "rerun");
}
