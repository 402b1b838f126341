//! `supple chat` and `supple generate` from pipe to pipe, with a made-up model; broken models and prompts.

mod common;
#[path = "common/language.rs"]
mod language;

use common::{Sandbox, finish};
use language::{Flaw, SAYS, model};
use std::io::{Read, Write};
use std::process::Stdio;

fn sandbox(flaw: Flaw) -> Sandbox {
    let sandbox = Sandbox::new();
    model(&sandbox.path("m.gguf"), flaw);
    sandbox
}

/// Bytes that it says, one a token.
fn said(tokens: usize) -> String {
    let bytes: Vec<u8> = SAYS.bytes().cycle().take(tokens).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn without_a_model_the_bundled_one_tells_a_story_and_a_line_says_how_to_get_another() {
    let sandbox = Sandbox::new();
    let story = " there was a girl called Anna. Anna lived on a farm. Anna was afraid of the big wind. She did not tell anyone.";
    let arguments = ["-t", "0", "-n", "27"];
    for isa in ["", "scalar", "avx2", "avx512", "neon"] {
        let command = |arguments: &[&str]| {
            let mut command = sandbox.command(arguments);
            if !isa.is_empty() {
                command.env("SUPPLE_ISA", isa);
            }
            command
        };
        if !command(&["doctor"]).output().unwrap().status.success() {
            eprintln!("skipped: {isa} is not what this CPU offers");
            continue;
        }
        for (name, input, wanted) in [
            ("generate", "", format!("Once upon a time{story}\n")),
            ("generate", "Once upon a time", format!("{story}\n")),
            ("chat", "Once upon a time\n", format!("{story}\n")),
        ] {
            let run = sandbox.feed(command(&[&[name][..], &arguments].concat()), input.as_bytes()).exits(0);
            assert_eq!(run.text(), wanted, "{name} on {isa}");
            let hint = format!("supple {name} hf:HuggingFaceTB/SmolLM2-135M-Instruct downloads a small one");
            assert!(run.stderr.contains(&hint) && run.stderr.lines().count() == 1, "{}", run.stderr);
        }
    }
    sandbox.pipe(&["chat", "-t", "0"], b"E = mc2\n").exits(0).says("try: Once upon a time");
    let named = sandbox.run(&["generate", "tiny_stories", "Once upon a time", "-t", "0", "-n", "27"]).exits(0);
    assert!(named.text() == format!("{story}\n") && named.stderr.is_empty(), "{}", named.stderr);
}

#[test]
fn text_comes_from_arguments_or_standard_input() {
    let sandbox = sandbox(Flaw::None);
    let tokens = SAYS.len() * 2;
    let count = tokens.to_string();
    for threads in ["1", "2"] {
        let arguments = ["generate", "m.gguf", "-t", "0", "-n", &count, "--threads", threads];
        let run = sandbox.pipe(&arguments, b"a line\n").exits(0);
        assert_eq!(run.text(), said(tokens), "what ends with a line break gets no other");
        let run = sandbox.run(&[&arguments[..], &["x\n", "--cache-type", "q4"]].concat()).exits(0);
        assert_eq!(run.text(), said(tokens));
    }
    sandbox.pipe(&["generate", "m.gguf"], b"\xff\xfe").exits(2).says("not UTF-8");
    sandbox
        .run(&["generate", "m.gguf", "x", "--cache-type", "q5"])
        .exits(2)
        .says("expected one of f32, f16, bf16, q8_0, q4_0");
}

#[test]
fn json_has_tokens_and_their_probabilities() {
    let sandbox = sandbox(Flaw::None);
    let arguments = ["generate", "m.gguf", "\n", "-t", "0", "-n", "3", "--json", "--log-probs", "2"];
    let json = sandbox.run(&arguments).exits(0).json();
    assert_eq!((json["finish"].as_str(), json["prompt_tokens"].as_u64()), (Some("length"), Some(1)));
    // The last byte begins a character that never came.
    assert_eq!(json["text"], "\u{e9}\u{fffd}");
    let ids: Vec<u64> = json["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0xc3, 0xa9, 0xf0]);
    for token in json["tokens"].as_array().unwrap() {
        let alternatives = token["alternatives"].as_array().unwrap();
        assert_eq!((alternatives.len(), &alternatives[0]["id"]), (2, &token["id"]));
        assert!(token["log_prob"].as_f64().unwrap() > -0.01, "{token}");
    }
    let stopped = ["generate", "m.gguf", "\n", "-t", "0", "-n", "30", "--json", "--stop", "\u{6f22}"];
    let json = sandbox.run(&stopped).exits(0).json();
    assert_eq!((json["finish"].as_str(), json["text"].as_str()), (Some("stop"), Some("\u{e9}\u{1f680}")));
}

#[test]
fn an_end_ends_the_text() {
    let sandbox = sandbox(Flaw::Ends);
    let json = sandbox.run(&["generate", "m.gguf", "why?", "-t", "0", "--json"]).exits(0).json();
    assert_eq!((json["finish"].as_str(), json["text"].as_str()), (Some("end"), Some(SAYS)));
    assert_eq!(json["tokens"].as_array().unwrap().len(), SAYS.len() + 1);
}

#[test]
fn streaming_never_splits_a_character() {
    let sandbox = sandbox(Flaw::None);
    let mut command = sandbox.command(&["generate", "m.gguf", "\n", "-t", "0", "-n", "8000", "--threads", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut all, mut pieces, mut buffer) = (String::new(), 0, vec![0; 1 << 16]);
    loop {
        let count = stdout.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        all += std::str::from_utf8(&buffer[..count]).expect("each piece is whole characters");
        pieces += 1;
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(all, said(8000));
    assert!(pieces > 1, "it streams");
}

#[test]
fn commands_of_a_conversation_do_what_they_say() {
    let sandbox = sandbox(Flaw::None);
    let count = SAYS.len().to_string();
    let chat = ["chat", "m.gguf", "-t", "0", "-n", &count, "--system", "Be kind."];
    let input = "/help\n/stats\n\nhello\n/stats\n/save one.md\nagain\n/reset\n/system Be brief.\nhi\n/save two.md\n/save two.md\n";
    let run = sandbox.pipe(&chat, input.as_bytes()).exits(1).says("written to one.md").says("two.md");
    let text = run.text();
    assert!(
        text.contains("/save FILE") && text.contains("nothing was generated yet\ncache 0 of 8192 tokens"),
        "{text}"
    );
    assert!(text.contains("tokens/s; answer 10 tokens"), "{text}");
    assert_eq!(text.matches(SAYS).count(), 3, "three answers: {text}");
    let saved = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    assert_eq!(saved("one.md"), format!("**system**\n\nBe kind.\n\n**user**\n\nhello\n\n**assistant**\n\n{SAYS}\n\n"));
    assert_eq!(saved("two.md"), format!("**system**\n\nBe brief.\n\n**user**\n\nhi\n\n**assistant**\n\n{SAYS}\n\n"));
    let run = sandbox.pipe(&chat, b"/nonsense\n/quit\nnever asked\n").exits(0).says("no command /nonsense");
    assert_eq!(run.text(), "");
}

#[test]
fn what_was_said_before_is_in_the_cache() {
    let sandbox = sandbox(Flaw::None);
    let run = sandbox.pipe(&["chat", "m.gguf", "-t", "0", "-n", "10"], b"one\ntwo\n/stats\n").exits(0);
    let stats = run.text();
    // The second prompt begins with the first and its answer.
    let cached = stats.split(", ").find_map(|part| part.strip_suffix(" from the cache")).expect("cached tokens");
    assert!(cached.parse::<usize>().unwrap() > 40, "{stats}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_text_that_has_no_end() {
    let sandbox = sandbox(Flaw::None);
    for (arguments, input) in [(["generate", "m.gguf"], "x\n"), (["chat", "m.gguf"], "x\nnever asked\n")] {
        let more = ["-t", "0", "--context", "1000000", "--threads", "1"];
        let mut command = sandbox.command(&[&arguments[..], &more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let mut first = vec![0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let run = finish(child.wait_with_output().unwrap()).exits(130);
        let text = String::from_utf8([first, run.stdout].concat()).expect("whole characters to the end");
        assert!(text.starts_with('\u{e9}') && run.stderr.contains("interrupted"), "{}", run.stderr);
    }
}

#[test]
fn broken_models_and_prompts_are_one_clear_error_each() {
    let one = |sandbox: &Sandbox, arguments: &[&str], wanted: &[&str]| {
        let run = sandbox.run(arguments).exits(1);
        let errors = run.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(errors == 1 && run.stderr.lines().count() <= 2 && run.stdout.is_empty(), "{}", run.stderr);
        for text in wanted {
            assert!(run.stderr.contains(text), "{text:?} expected in:\n{}", run.stderr);
        }
    };
    let good = sandbox(Flaw::None);
    one(&good, &["generate", "m.gguf", ""], &["hint: give some text"]);
    one(&good, &["generate", "m.gguf", "far too long", "--context", "8"], &["12 tokens", "hint: --context 268"]);
    one(&good, &["chat", "none.gguf"], &["none.gguf", "hint: check the path"]);
    let whole = good.read("m.gguf");
    for cut in [4, 100, whole.len() / 2, whole.len() - 1] {
        good.write("cut.gguf", &whole[..cut]);
        one(&good, &["generate", "cut.gguf", "x"], &["cut.gguf: truncated"]);
    }
    good.write("text.gguf", b"Not Found");
    one(&good, &["generate", "text.gguf", "x"], &["wanted GGUF, safetensors or a PyTorch checkpoint, found text"]);
    one(&good, &["convert", "text.gguf", "-o", "out.gguf"], &["wanted GGUF, found text"]);
    good.write("folder/readme.md", b"nothing");
    one(&good, &["generate", "folder", "x"], &["wanted GGUF, or a folder with config.json"]);
    for (flaw, wanted) in [
        (Flaw::Vocabulary, "token 65 is not UTF-8"),
        (Flaw::TensorType, "\"model.layers.0.mlp.gate_proj.weight\" is I32, wanted floats or quantised blocks"),
        (Flaw::TensorShape, "is [64, 32], wanted [64, 64]"),
    ] {
        one(&sandbox(flaw), &["generate", "m.gguf", "x"], &["m.gguf", wanted]);
    }
}
