#!/usr/bin/env python3
"""Renders the templates beside this file as `transformers` does and writes golden.json. The templates are our own, each with
the constructs that the family's published template has. `pip install transformers jinja2` (no torch); python3 generate.py"""

import json
import pathlib
from datetime import datetime

from transformers.utils import chat_template_utils as chat

HERE = pathlib.Path(__file__).parent
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells \"the\" weather: <é> & 'so'",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": 1.0}},
                       "required": ["town"], "empty": [], "none": None, "yes": True}}}
user, assistant, system = ((lambda text, role=role: {"role": role, "content": text}) for role in ("user", "assistant", "system"))
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich", "days": 2}}}]}
CONVERSATIONS = {
    "one": [user("Hello!")],
    "spaces": [user("  two lines\n and \u00a0 spaces\t ")],
    "system": [system(" Be brief. "), user("Why?")],
    "several": [system("S"), user("a"), assistant("b\n"), user("c"), assistant(" d ")],
    "thinking": [user("q"), assistant("<think>\nhm\n</think>\n\nyes"), user("r"), assistant("<think>\nso\n</think>\n\nno")],
    "alternation": [user("a"), user("b")],
    "calls": [user("Weather?"), CALL, {"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}, assistant("Rain.")],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}]}],
    "empty": [user("")],
}
PARTS = {"gemma"}  # templates that take a list as content


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2026, 11, 3, 9, 5, 7)


chat.datetime = Clock
cases = []
for path in sorted(HERE.glob("*.jinja")):
    source = path.read_text()
    for name, messages in CONVERSATIONS.items():
        if name == "parts" and path.stem not in PARTS:
            continue
        for prompt in (False, True):
            for tools in ([None, [TOOL]] if name in ("one", "calls", "system") else [None]):
                variables = {"enable_thinking": False} if name == "one" else {}
                case = {"template": path.stem, "conversation": name, "prompt": prompt, "variables": variables,
                        "tools": tools and json.dumps(tools), "messages": json.dumps(messages)}  # as text: the order of keys counts
                try:
                    rendered, _ = chat.render_jinja_template([messages], tools=tools, chat_template=source,
                                                             add_generation_prompt=prompt, **TOKENS, **variables)
                    case["text"] = rendered[0]
                except Exception as error:
                    case["error"] = str(error)
                cases.append(case)
(HERE / "golden.json").write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
