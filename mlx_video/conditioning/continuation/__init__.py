"""Ways in which a video is made in several parts: what each part takes of those before it.

A way is a value of `way.Continuation` in a file of its own here, which a variant names as its `continuation`.
To add one, say what of its fields differs from the way of `last_frame.py`:

- how many frames a part takes of what is before it (`count_shared`); whether it shows them again, in which
  case they are cut where the parts are joined (`is_shown_again`), or only reads them; how many frames of
  the first part are lost (`count_lost`), and how many each has beyond those of its latents (`extra_frames`);
- what these frames become: something in the request (`begin`), or `UnitInputs.part.history`, which
  conditioning units read (`reads_history`), as they left the decoder or as in the video (`is_exact`);
- whether each part reads its other inputs from their beginning, or from where it lies itself (`reads_on`):
  then `UnitInputs.videos` and `.masks` begin at `UnitInputs.part.first_frame`, as a unit does with sound;
- whether an input that ends before the last part does goes back and forth there (`turns_back`) or is refused;
- how many parts there are: as `--segments` says, or as an input is long (`find_length`), to which the last
  part is cut;
- which noise a part begins with (`noise_goes_on`), and whether its colours are matched (`matches_colours`).

Joining, `--resume` inside a part and between parts, finished parts beside the video and saved latents follow
from these fields (`runs/segments.py`, `runs/continuation.py`).
"""
