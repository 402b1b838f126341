//! Chat templates: what `transformers` renders, to the letter. `templates/generate.py` wrote the expected texts.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use supple::Error;
use supple::text::template::{ChatTemplate, Message, RenderOptions};

/// 3 November 2026, 09:05:07.
fn now() -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_secs(1_793_696_707))
}

fn tokens() -> BTreeMap<&'static str, String> {
    BTreeMap::from([("bos_token", "<s>".to_string()), ("eos_token", "</s>".to_string())])
}

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::new("test", source, &tokens()).unwrap()
}

fn render(source: &str) -> Result<String, Error> {
    compile(source).render(&[Message::new("user", "hi")], &RenderOptions { now: now(), ..Default::default() })
}

#[test]
fn conversations_are_rendered_as_transformers_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&golden).unwrap();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in &cases {
        let source =
            std::fs::read_to_string(folder.join(format!("{}.jinja", case["template"].as_str().unwrap()))).unwrap();
        let options = RenderOptions {
            add_generation_prompt: case["prompt"].as_bool().unwrap(),
            tools: case["tools"].as_str().map(str::to_string),
            variables: case["variables"].as_object().unwrap().clone().into_iter().collect(),
            now: now(),
        };
        let rendered = compile(&source).render_json(case["messages"].as_str().unwrap(), &options);
        let rendered = rendered.map_err(|error| error.to_string());
        let wanted = match case["error"].as_str() {
            Some(error) => Err(format!("test: chat template: {error}")),
            None => Ok(case["text"].as_str().unwrap().to_string()),
        };
        if rendered != wanted {
            wrong.push(format!("{} {}:\n{rendered:?}\n{wanted:?}", case["template"], case["conversation"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn what_is_no_template_says_where() {
    for source in ["{% for %}", "{{ x", "a\n{% if %}"] {
        let error = ChatTemplate::new("model.gguf", source, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.starts_with("model.gguf: chat template: syntax error") && error.lines().count() == 1, "{error}");
    }
    assert!(ChatTemplate::new("long", &"x".repeat(2 << 20), &BTreeMap::new()).is_err());
}

#[test]
fn a_template_that_fails_or_never_ends_is_an_error() {
    for source in [
        "{{ messages[0].nothing.more }}",
        "{{ unknown_function() }}",
        "{{ 1 / 0 }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no\u{1b}') }}",
    ] {
        let error = render(source).unwrap_err();
        assert!(matches!(error, Error::Template { .. }), "{error}");
    }
    let broken = compile("{{ messages }}").render_json("{", &RenderOptions::default()).unwrap_err();
    assert!(broken.to_string().contains("messages: JSON"), "{broken}");
}

#[test]
fn variables_tokens_and_the_clock_are_there() {
    assert_eq!(
        render("{{ bos_token }}{{ eos_token }}{{ unk_token }}|{{ messages[0]['content'] }}").unwrap(),
        "<s></s>|hi"
    );
    assert_eq!(render("{{ strftime_now('%Y-%m-%d') }}").unwrap(), "2026-11-03");
    assert_eq!(render("{{ '<b>&' }}{{ {'a': '<'} | tojson }}").unwrap(), "<b>&{\"a\": \"<\"}");
}

#[test]
fn templates_are_found_in_folders() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let find = || {
        ChatTemplate::from_folder(folder.path())
            .map(|found| found.map(|template| template.render(&[], &RenderOptions::default()).unwrap()))
    };
    assert_eq!(find().unwrap(), None);
    write("tokenizer_config.json", r#"{"bos_token": {"content": "<B>"}, "eos_token": null}"#);
    assert_eq!(find().unwrap(), None);
    write("tokenizer_config.json", r#"{"bos_token": {"content": "<B>"}, "chat_template": "one{{ bos_token }}"}"#);
    assert_eq!(find().unwrap().as_deref(), Some("one<B>"));
    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t{{ tools | length }}"}]}"#;
    write("tokenizer_config.json", list);
    assert_eq!(find().unwrap().as_deref(), Some("d"));
    let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
    let options = RenderOptions { tools: Some("[1, 2]".into()), ..Default::default() };
    assert_eq!(template.render(&[], &options).unwrap(), "t2");
    write("chat_template.jinja", "file");
    assert_eq!(find().unwrap().as_deref(), Some("file"));
    write("tokenizer_config.json", "[");
    assert!(find().is_err());
}
