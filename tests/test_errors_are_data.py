"""No code decides by the words of our own sentences: errors carry problem, fix, exit code and retry."""

import ast
from pathlib import Path

import pytest

TRAINER = Path(__file__).parent.parent / "trainer"
FILES = sorted(TRAINER.rglob("*.py"))
CUTS = {"partition", "rpartition", "split", "rsplit", "index", "find"}
JOINS = ("; ", ": ")  # what joins a problem and its fix, or a name and its problem
OURS = {"sentence", "problem", "fix", "said", "ended"}  # variables and attributes that hold sentences of ours
ERRORS = {"error", "failure", "exception"}
# Cutting the messages of others, who give no facts: file and function, and whose words they are.
OTHERS = {
    ("cluster/api.py", "_reason"): "urllib3 nests the cause of a lost connection behind the last colon",
    ("driver/ray_cluster.py", "_refusal"): "Ray says only in words why it refuses a driver",
    ("training/device.py", "gpu_names"): "nvidia-smi lists `GPU 0: NAME (UUID: ...)`",
    ("driver/ray_errors.py", "ran_out_of_memory"): "Ray says only in words that it killed a worker for its memory",
}


def functions(tree):
    """Each function of a file with what it holds, nested ones apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def cuts(node):
    """Whether an expression cuts a text where a problem and its fix, or a name and its problem, are joined."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CUTS
        and any(isinstance(given, ast.Constant) and given.value in JOINS for given in node.args)
    )


def name_of(node):
    """The last name of a variable or attribute; of `str(x)` that of x."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return f"str {name_of(node.args[0])}"
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def holds_our_words(node):
    name = name_of(node)
    return name in OURS or name.removeprefix("str ") in OURS or name in {f"str {error}" for error in ERRORS}


def looks_for_words(node):
    """Whether an expression asks if a text is in a sentence of ours, or how that begins or ends."""
    if isinstance(node, ast.Compare) and any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops):
        return any(holds_our_words(right) for right in node.comparators)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"startswith", "removeprefix", "removesuffix", *CUTS}
        and holds_our_words(node.func.value)
    )


def found_in(text, finds):
    return [
        (function.name, ast.unparse(node))
        for function in functions(ast.parse(text))
        for node in ast.walk(function)
        if finds(node)
    ]


@pytest.mark.parametrize("finds", [cuts, looks_for_words])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TRAINER).as_posix())
def test_no_code_decides_by_the_words_of_a_sentence(file, finds):
    name = file.relative_to(TRAINER).as_posix()
    found = found_in(file.read_text(), finds)
    assert [where for where in found if (name, where[0]) not in OTHERS] == []


@pytest.mark.parametrize(
    "code",
    [
        'x, _, fix = str(error).rpartition("; ")',
        'return str(error).partition(": ")',
        'return ended.problem.split("; ")[0]',
    ],
)
def test_a_cut_of_a_sentence_is_found(code):
    assert found_in(f"def f():\n    {code}", cuts)


@pytest.mark.parametrize(
    "code",
    [
        'return "gone" in sentence',
        'return "gone" in str(error)',
        "return any(words in self.sentence for words in MAY_PASS)",
        'return str(error).startswith("storage")',
        'return "x" not in failure.problem',
    ],
)
def test_a_search_in_a_sentence_is_found(code):
    assert found_in(f"def f():\n    {code}", looks_for_words)


@pytest.mark.parametrize("code", ['return "x" in names', 'return text.partition("=")', 'return name.startswith(".")'])
def test_other_texts_may_be_taken_apart(code):
    text = f"def f():\n    {code}"
    assert found_in(text, cuts) == found_in(text, looks_for_words) == []
