import pytest

from trainer.storage import manifest

CONTENT = {"name": "a", "loss": 1e-5, "files": {"b": manifest.facts(b"123")}}


def test_what_was_sealed_is_read_back():
    assert manifest.unseal(manifest.seal(CONTENT)) == CONTENT


def test_every_bit_of_it_counts():
    sealed = manifest.seal(CONTENT)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(ValueError, match=r"is truncated or damaged|is not what was written"):
                manifest.unseal(bytes(changed))


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"123", None),
        (b"124", "is not what was written: its sha256 differs"),
        (b"12", "has 2 bytes instead of 3"),
        (None, "is missing"),
    ],
)
def test_the_damage_of_a_file_is_named(content, damage):
    assert manifest.damage(content, manifest.facts(b"123")) == damage
