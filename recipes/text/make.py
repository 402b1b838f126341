"""Writes the texts of recipes/tiny_text.toml and recipes/finetune.toml: little stories and talks, made by a grammar of our own.

    python3 make.py            stories.txt and stories_validate.txt into this folder, for training
    python3 make.py all        also what is kept beside this file: talks.jsonl, talks_validate.jsonl, and
                               tokenizer/tokenizer.json, made anew of the stories (with the package tokenizers)

Nothing is random but by a fixed seed: the files are the same everywhere. They are ours, under the licences of this project.
"""
import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).parent
CHARACTERS = [
    ("Mia", "a girl", "she", "her", "her"), ("Tom", "a boy", "he", "him", "his"), ("Lily", "a girl", "she", "her", "her"),
    ("Ben", "a boy", "he", "him", "his"), ("Nora", "a little mouse", "she", "her", "her"), ("Max", "a brown dog", "he", "him", "his"),
    ("Bella", "a grey cat", "she", "her", "her"), ("Oskar", "an old bear", "he", "him", "his"), ("Pip", "a small bird", "he", "him", "his"),
    ("Rosa", "a red fox", "she", "her", "her"), ("Hugo", "a slow snail", "he", "him", "his"), ("Ella", "a white rabbit", "she", "her", "her"),
    ("Finn", "a young frog", "he", "him", "his"), ("Ida", "a busy bee", "she", "her", "her"), ("Leo", "a shy lion", "he", "him", "his"),
    ("Anna", "a girl", "she", "her", "her"),
]
PLACES = [
    ("in a small house by the sea", "the beach"), ("at the edge of a deep forest", "the forest"), ("on a green hill", "the meadow"),
    ("near a quiet lake", "the lake"), ("in a little town", "the market"), ("behind an old mill", "the river"),
    ("beside a big garden", "the garden"), ("on a farm", "the barn"),
]
THINGS = [
    ("ball", "red", "play with"), ("kite", "blue", "fly"), ("boat", "wooden", "sail"), ("drum", "small", "play"), ("book", "old", "read"),
    ("lamp", "golden", "look at"), ("basket", "round", "carry"), ("bell", "silver", "ring"), ("hat", "green", "wear"), ("cup", "yellow", "drink from"),
    ("scarf", "warm", "wear"), ("box", "little", "open"),
]
TIMES = ["One morning", "One day", "One sunny afternoon", "On a cold day", "One evening", "After breakfast", "On a rainy day", "Early in spring"]
FEELINGS = ["happy", "proud", "glad", "very happy", "full of joy"]
WEATHER = ["The sun was warm.", "The wind was soft.", "It was a little cold.", "The sky was blue.", "Small clouds went by.", "Birds were singing."]
LESSONS = [
    "It is good to help each other.", "A friend is better than any treasure.", "If you share, you have more.", "It is brave to ask for help.",
    "Being slow is not bad.", "It is best to tell the truth.", "Small friends can do great things.", "It is never too late to say sorry.",
]
FOOD = ["a warm soup", "an apple pie", "bread and honey", "a big pancake", "sweet berries", "some cheese"]
HIDING = ["under a bush", "behind a stone", "in the tall grass", "high up in a tree", "under the bed", "in the mud", "on the roof", "in a hole"]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


class Story:
    def __init__(self, r):
        self.r = r
        (self.n, self.k, self.he, self.him, self.his), (self.m, self.mk, self.mhe, self.mhim, self.mhis) = r.sample(CHARACTERS, 2)
        self.home, self.place = r.choice(PLACES)
        self.thing, self.look, self.use = r.choice(THINGS)
        self.He, self.Mhe = self.he.capitalize(), self.mhe.capitalize()

    def begin(self):
        n, k = self.n, self.k
        return self.r.choice([
            f"Once upon a time there was {k} called {n}. {n} lived {self.home}.",
            f"{n} was {k} who lived {self.home}.",
            f"There once lived {k} {self.home}. {self.his.capitalize()} name was {n}.",
        ])

    def day(self):
        return f"{self.r.choice(TIMES)}, {self.n} went to {self.place}. {self.r.choice(WEATHER)}"

    def lost(self):
        t, l, r = self.thing, self.look, self.r
        where = r.choice(HIDING)
        ask = r.choice([f'"Have you seen my {l} {t}?" asked {self.n}.', f'"I cannot find my {l} {t}," said {self.n}.'])
        return [
            f"{self.n} had {article(l)} {t}. {self.He} loved to {self.use} it.",
            self.day(),
            r.choice([f"But then the {t} was gone!", f"When {self.he} looked again, the {t} was not there."]) + f" {self.n} was sad.",
            f"Then {self.he} met {self.m}, {self.mk}. {ask}",
            r.choice([f'"No, but I will help you," said {self.m}.', f'"Let us look for it together," said {self.m}.']),
            f"They looked here and they looked there. At last {self.m} found the {t} {where}.",
            f'"Thank you!" said {self.n}. {self.He} was {r.choice(FEELINGS)}.',
            r.choice([f"They went home and ate {r.choice(FOOD)}.", f"From that day on, {self.n} and {self.m} were friends."]),
        ]

    def share(self):
        food, r = self.r.choice(FOOD), self.r
        return [
            f"{r.choice(TIMES)}, {self.n} made {food}. It smelled very good.",
            f"{self.m}, {self.mk}, came by. {self.Mhe} was hungry and tired.",
            f'"May I have some?" asked {self.m}.',
            r.choice([f'{self.n} thought for a moment. "There is not much," {self.he} said, "but you can have half."',
                      f'"Of course," said {self.n}. "Sit down with me."']),
            f"They sat down and ate {food} together. {r.choice(WEATHER)}",
            f"The next day, {self.m} came back with {article(self.look)} {self.thing}. " + f'"This is for you," {self.mhe} said.',
            f"{self.n} was {r.choice(FEELINGS)}. Now {self.he} could {self.use} it every day.",
        ]

    def afraid(self):
        r = self.r
        thing = r.choice(["the dark", "the deep water", "the big wind", "the loud thunder", "the high bridge"])
        return [
            f"{self.n} was afraid of {thing}. {self.He} did not tell anyone.",
            f"{self.day()} {self.He} was with {self.m}, {self.mk}.",
            f'"Come with me!" said {self.m}. But {self.n} did not move.',
            f'"I am afraid of {thing}," {self.he} said in a low voice.',
            r.choice([f'"I was afraid too," said {self.m}. "Take my hand, and we will go slowly."',
                      f'"That is all right," said {self.m}. "We can do it step by step."']),
            f"So they went step by step. {self.n} held on to {self.m}. And then it was over!",
            f'"I did it!" said {self.n}. {self.He} was {r.choice(FEELINGS)}, and {self.m} was {r.choice(FEELINGS)} too.',
        ]

    def build(self):
        r = self.r
        what, use = r.choice([("a small house", "sleep in it"), ("a bridge", "walk over it"), ("a boat", "sail on it"), ("a tower", "see the whole world"), ("a nest", "rest in it")])
        return [
            f"{self.n} wanted to build {what}. {self.He} wanted to {use}.",
            f"{r.choice(TIMES)}, {self.he} took some wood and began. But it was hard. The wood fell down again and again.",
            f'"This will never work," said {self.n}.',
            f"{self.m}, {self.mk}, heard it. " + r.choice([f'"Two can do more than one," {self.mhe} said.', f'"Try once more," {self.mhe} said. "I will hold the wood."']),
            f"They worked all day. {r.choice(WEATHER)} In the evening, {what.replace('a ', 'the ', 1)} was ready.",
            f"{self.n} and {self.m} could {use} now. They were {r.choice(FEELINGS)}.",
        ]

    def sorry(self):
        r, t, l = self.r, self.thing, self.look
        return [
            f"{self.m}, {self.mk}, had {article(l)} {t}. {self.n} liked it very much.",
            f"{r.choice(TIMES)}, {self.n} took the {t} without asking. {self.He} wanted to {self.use} it.",
            f"But the {t} broke! {self.n} was afraid. {self.He} hid it {r.choice(HIDING)}.",
            f'"Where is my {t}?" asked {self.m}. {self.n} looked at the ground.',
            f'"I took it and I broke it," {self.he} said. "I am sorry."',
            r.choice([f'{self.m} was sad, but then {self.mhe} smiled. "Thank you for telling me," {self.mhe} said.',
                      f'"I am not angry," said {self.m}. "Let us mend it together."']),
            f"They mended the {t}, and it was almost like new.",
        ]

    def text(self):
        parts = [self.begin()] + self.r.choice([self.lost, self.share, self.afraid, self.build, self.sorry])()
        if self.r.random() < 0.6:
            parts.append(self.r.choice([f"{self.n} learned something that day. ", ""]) + self.r.choice(LESSONS))
        if self.r.random() < 0.3:
            parts.append("The end.")
        cut = self.r.randrange(2, len(parts) - 1)
        return " ".join(parts[:cut]) + "\n" + " ".join(parts[cut:])


def chat(r):
    story = Story(r)
    kind = r.randrange(4)
    if kind == 0:
        ask = r.choice([f"Tell me a story about {story.k}.", f"Please write a story about {story.n}, {story.k}."])
        return ask, story.text()
    if kind == 1:
        return f"Who is {story.n}?", f"{story.n} is {story.k} who lives {story.home}."
    if kind == 2:
        return r.choice(["Hello!", "Hi!", "Good morning!"]), r.choice(["Hello! Shall I tell you a story?", "Hi! I can tell you a story."])
    return f"What can you do with {article(story.thing)}?", f"You can {story.use} it."


def write(name, lines):
    (HERE / name).write_text(lines)
    print(name, f"{len(lines) / 1e6:.2f} MB")


def stories(seed, count):
    r = random.Random(seed)
    return "\n<|endoftext|>\n".join(Story(r).text() for _ in range(count)) + "\n"


def chats(seed, count):
    r = random.Random(seed)
    turns = lambda: [{"role": role, "content": text} for role, text in zip(["user", "assistant"], chat(r))]
    return "".join(json.dumps({"messages": turns()}) + "\n" for _ in range(count))


write("stories.txt", stories(1, 40000))
write("stories_validate.txt", stories(2, 200))
if sys.argv[1:] == ["all"]:
    write("talks.jsonl", chats(3, 400))
    write("talks_validate.jsonl", chats(4, 60))
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(HERE / "stories.txt")], trainer)
    tokenizer.save(str(HERE / "tokenizer/tokenizer.json"))
    print("tokens:", tokenizer.get_vocab_size())
