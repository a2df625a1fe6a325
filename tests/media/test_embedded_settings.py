"""Settings as text in a file."""

from __future__ import annotations

from mlx_video.media.embedded_settings import settings_to_text, text_to_settings


def test_words_of_all_scripts_stay_readable_and_control_codes_do_not_stay():
    settings = {"prompt": "一只猫 & ünïcödé", "seed": "1", "odd": "a\x1b[31m\x7fb"}
    text = settings_to_text(settings)
    assert "一只猫 & ünïcödé" in text
    assert text.isprintable()
    assert {name: text_to_settings(text)[name] for name in settings} == settings
