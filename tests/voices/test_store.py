"""Laws of the voices that users make: kept, shared, bounded, and never taken for one another."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from stentor.config import ReferenceConfig
from stentor.errors import ForbiddenError, NotFoundError, RequestError, TooLargeError
from stentor.request import Audio, ModelInfo, Reference, SamplingParams
from stentor.voices import DEFAULT, OPENAI_VOICES, Voice, VoiceStore, folder
from stentor.voices.store import default_folder

CODES = np.arange(80, dtype=np.uint16).reshape(10, 8)
Open = Callable[..., VoiceStore]


def info(checkpoint: Path, codec: str = "codec-1") -> ModelInfo:
    return ModelInfo("m", str(checkpoint), 24_000, 960, 8, 1024, (), 1, SamplingParams(), codec)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint" / "voices"
    folder.mkdir(parents=True)
    np.save(folder / "carl.npy", CODES[:3])
    (folder / "carl.txt").write_text("I am Carl.")
    return folder.parent


@pytest.fixture
def open_store(checkpoint: Path, tmp_path: Path) -> Open:
    def open_(codec: str = "codec-1", **settings: int | bool) -> VoiceStore:
        config = ReferenceConfig(voices_folder=str(tmp_path / "voices"), **settings)  # type: ignore[arg-type]
        return VoiceStore(info(checkpoint, codec), config)

    return open_


def test_a_voice_is_heard_of_by_name_and_by_id(open_store: Open) -> None:
    store = open_store()
    rosa = store.add("Rosa", CODES, b"fLaC", transcript="I am Rosa.", consent="by letter", duration_s=0.4)
    for name in ("Rosa", rosa.id):
        reference = store.get(name)
        assert reference is not None
        assert (reference.audio, reference.text) == (None, "I am Rosa.")
        np.testing.assert_array_equal(reference.codes, CODES)
        assert store.about(name) == rosa
    assert (rosa.consent, rosa.codec, rosa.duration_s, rosa.preset) == ("by letter", "codec-1", 0.4, False)
    assert rosa.sha256 is not None
    assert rosa.created_at > 1_700_000_000
    assert store.names() == (DEFAULT, "carl", "Rosa")


@pytest.mark.parametrize(
    ("told", "made", "kept"),
    [(None, "heard", "heard"), ("told", "told", "told"), (" ", "heard", "heard"), (None, None, None)],
)
def test_an_enrolled_voice_keeps_the_words_that_the_pipeline_used(
    open_store: Open, told: str | None, made: str | None, kept: str | None
) -> None:
    audio = Audio(np.zeros(0, np.float32), 24_000, codes=CODES, transcript=made)
    assert open_store().add_enrolled("Rosa", audio, transcript=told, language="en").transcript == kept
    assert open_store().about("Rosa").transcript == kept


def test_voices_stay_over_restarts_and_are_seen_by_others_at_once(open_store: Open) -> None:
    one, other = open_store(), open_store()
    assert other.names() == (DEFAULT, "carl")
    rosa = one.add("Rosa", CODES)
    assert other.about("Rosa") == rosa
    other.change(rosa.id, name="Rosalind")
    assert one.about(rosa.id).name == "Rosalind"
    with pytest.raises(NotFoundError):
        one.get("Rosa")
    one.remove("Rosalind")
    assert other.names() == open_store().names() == (DEFAULT, "carl")


def test_the_voices_of_the_checkpoint_are_there_and_stay(open_store: Open) -> None:
    store = open_store()
    carl = store.get("carl")
    assert carl is not None
    assert carl.text == "I am Carl."
    assert store.get(DEFAULT) is None
    assert store.about("carl").preset
    for forbidden in (store.remove, store.read, lambda name: store.change(name, language="en")):
        with pytest.raises(ForbiddenError, match="part of the checkpoint"):
            forbidden("carl")


def test_all_names_of_openai_resolve_and_a_user_may_take_one(open_store: Open) -> None:
    store = open_store()
    assert [store.get(name) for name in OPENAI_VOICES] == [None] * 13
    assert store.about("alloy").id == DEFAULT
    store.add("alloy", CODES)
    assert store.get("alloy") is not None
    assert all(store.get(name) is None for name in OPENAI_VOICES[1:])


def test_speakers_of_the_model_are_voices_and_where_it_clones_none_nobody_adds_any(
    open_store: Open, checkpoint: Path
) -> None:
    file = open_store()
    exported = file.read(file.add("Rosa", CODES, b"fLaC").id).pack()
    # What users made for another model hides none of this one's.
    for name in ("vivian", "alloy"):
        file.add(name, CODES)
    own = structs.replace(info(checkpoint), speakers=("vivian",), clones=False)
    store = VoiceStore(own, ReferenceConfig(voices_folder=str(file.folder)))
    assert store.names() == (DEFAULT, "vivian", "carl")
    assert store.get("Vivian") == store.get("alloy") == Reference(speaker="vivian")
    assert store.about("Vivian") == Voice("vivian", "vivian", preset=True)
    with pytest.raises(NotFoundError, match=r"one of default, vivian, carl$"):
        store.get("nobody")
    for adding in (lambda: store.check_new("Otto"), lambda: store.add_file(exported)):
        with pytest.raises(RequestError, match="clones no voices: choose one of vivian"):
            adding()


def test_an_unknown_voice_is_not_found_and_the_known_ones_are_named(open_store: Open) -> None:
    with pytest.raises(
        NotFoundError, match="no voice 'otto': choose one of default, carl, or send"
    ) as caught:
        open_store().get("otto")
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")
    for number in range(30):
        open_store().add(f"v{number}", CODES)
    with pytest.raises(NotFoundError, match="and 12 more"):
        open_store().get("otto")


@pytest.mark.parametrize("name", ["../carl", "voices/carl", "carl.npy", "", "CARL", "\0"])
def test_only_names_are_voices_and_never_paths(open_store: Open, name: str) -> None:
    with pytest.raises(NotFoundError):
        open_store().get(name)


@pytest.mark.parametrize("name", ["Rosa", "rosa", "rоsa", "ROSA", "carl", "Default"])
def test_a_name_that_could_be_taken_for_another_is_refused(open_store: Open, name: str) -> None:
    store = open_store()
    store.add("Rosa", CODES)
    other = store.add("Otto", CODES)
    with pytest.raises(RequestError, match="already") as caught:
        store.add(name, CODES)
    assert (caught.value.param, caught.value.code) == ("name", "voice_exists")
    with pytest.raises(RequestError, match="already"):
        store.change(other.id, name=name)
    assert len(store.names()) == 4


def test_a_voice_may_change_the_case_of_its_own_name(open_store: Open) -> None:
    store = open_store()
    rosa = store.add("Rosa", CODES, transcript="words")
    changed = store.change("Rosa", name="ROSA", description="calm", transcript=None)
    assert (changed.id, changed.name, changed.description, changed.transcript) == (
        rosa.id,
        "ROSA",
        "calm",
        None,
    )
    np.testing.assert_array_equal(store.read("ROSA").codes, CODES)


def test_number_and_size_are_bounded(open_store: Open) -> None:
    store = open_store(max_voices=2, max_bytes=1000)
    with pytest.raises(TooLargeError):
        store.add("Big", CODES, bytes(2_000_000))
    store.add("a", CODES)
    store.add("b", CODES)
    with pytest.raises(RequestError, match="2 voices already") as caught:
        store.add("c", CODES)
    assert caught.value.code == "too_many_voices"
    with pytest.raises(RequestError, match="consent must be text of at most 1000"):
        store.add("d", CODES, consent="x" * 1001)


def test_codes_of_another_codec_are_made_anew_from_the_recording_or_refused(open_store: Open) -> None:
    store = open_store("codec-1")
    store.add("Kept", CODES, b"fLaC", transcript="words")
    store.add("Codes", CODES)
    other = open_store("codec-2")
    reference = other.get("Kept")
    assert reference is not None
    assert (reference.codes, reference.audio, reference.text) == (None, b"fLaC", "words")
    with pytest.raises(RequestError, match="another model's codec and no recording") as caught:
        other.get("Codes")
    assert caught.value.code == "voice_of_another_codec"
    assert "Codes" in other.names()


def test_recordings_are_kept_only_if_wanted(open_store: Open) -> None:
    rosa = open_store(keep_recordings=False).add("Rosa", CODES, b"fLaC")
    assert rosa.sha256 is None
    assert open_store().read("Rosa").recording is None


def test_a_voice_that_comes_as_a_file_keeps_its_recording_only_if_wanted(open_store: Open) -> None:
    made = open_store().add("Rosa", CODES, b"fLaC")
    data = open_store().read("Rosa").pack()
    open_store().remove("Rosa")
    with pytest.raises(RequestError, match="another model's codec and no recording"):
        open_store("codec-2", keep_recordings=False).add_file(data)
    rosa = open_store(keep_recordings=False).add_file(data)
    assert (made.sha256 is None, rosa.sha256) == (False, None)
    assert open_store().read("Rosa").recording is None


def test_a_name_means_its_voice_however_its_marks_are_written(open_store: Open) -> None:
    store = open_store()
    rene = store.add("Rene\u0301", CODES)
    assert rene.name == "Ren\u00e9"
    for written in ("Rene\u0301", "Ren\u00e9"):
        assert store.about(written) == rene


def test_half_a_character_is_refused_in_what_is_said_of_a_voice(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(RequestError, match="half a character") as caught:
        store.add("Rosa", CODES, description="calm \ud83d")
    assert caught.value.param == "description"
    assert store.names() == (DEFAULT, "carl")


def test_an_exported_voice_can_be_imported_elsewhere(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    rosa = store.add("Rosa", CODES, b"fLaC", transcript="words")
    data = store.read("Rosa").pack()
    elsewhere = VoiceStore(info(tmp_path), ReferenceConfig(voices_folder=str(tmp_path / "elsewhere")))
    assert elsewhere.add_file(data) == rosa
    with pytest.raises(RequestError, match="already"):
        elsewhere.add_file(data)
    second = elsewhere.add_file(data, name="Second")
    assert second.id != rosa.id
    assert elsewhere.names() == (DEFAULT, "Rosa", "Second")


def test_an_imported_voice_must_be_of_use(open_store: Open) -> None:
    data = open_store("codec-2").add("Rosa", CODES) and open_store().read("Rosa").pack()
    with pytest.raises(RequestError, match="another model's codec"):
        open_store("codec-1").add_file(data, name="Other")
    with pytest.raises(RequestError, match="no voice that can be read"):
        open_store().add_file(b"nonsense")


def test_a_damaged_file_is_left_out_and_named_once(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    rosa = store.add("Rosa", CODES)
    (tmp_path / "voices" / "voice_bad.voice").write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert store.about("Rosa") == rosa
            assert store.names() == (DEFAULT, "carl", "Rosa")
    assert [record.message.split(" in ")[0] for record in caplog.records] == ["the voice voice_bad"]


def test_a_voice_that_cannot_be_read_for_a_moment_is_back_after_it(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_store().add("Rosa", CODES)
    settled_ns = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(folder.time, "time_ns", lambda: settled_ns)
    store = open_store()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):

        def fail(_path: Path) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(Path, "read_bytes", fail)
        assert store.names() == store.names() == (DEFAULT, "carl")
    assert caplog.text.count("Too many open files") == 1
    assert store.names() == (DEFAULT, "carl", "Rosa")


def test_a_file_that_was_put_into_the_folder_by_hand_is_a_voice_like_any_other(
    open_store: Open, tmp_path: Path
) -> None:
    store = open_store()
    rosa = store.add("Rosa", CODES)
    (tmp_path / "voices" / f"{rosa.id}.voice").rename(tmp_path / "voices" / "rosa.voice")
    assert store.change("Rosa", description="clear").id == "rosa"
    assert [(voice.id, voice.description) for voice in store.all()[2:]] == [("rosa", "clear")]


def test_a_folder_that_vanishes_takes_its_voices_along(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add("Rosa", CODES)
    shutil.rmtree(tmp_path / "voices")
    assert store.names() == (DEFAULT, "carl")
    store.add("Rosa", CODES)
    assert store.names() == (DEFAULT, "carl", "Rosa")


def test_the_settings_say_where_voices_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    VoiceStore(info(tmp_path), ReferenceConfig()).add("Rosa", CODES)
    assert len(list((tmp_path / "data" / "stentor" / "voices").glob("*.voice"))) == 1
    VoiceStore(info(tmp_path), ReferenceConfig(voices_folder=str(tmp_path / "mine"))).add("Rosa", CODES)
    assert len(list((tmp_path / "mine").glob("*.voice"))) == 1
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == Path(os.environ["HOME"]) / ".local/share/stentor/voices"
