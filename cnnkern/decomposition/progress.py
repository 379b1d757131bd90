"""A progress bar that shows up only when a fit takes long enough to be wondered about."""

from __future__ import annotations

PATIENCE = 3.0  # seconds without a bar, unless one was asked for


class Progress:
    """A tqdm bar with the current error.

    `verbose` True shows it at once and leaves it there, None shows it after a while, False never.
    """

    def __init__(self, description: str, total: int, verbose: bool | None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=description,
            total=total,
            disable=verbose is False,
            delay=0.0 if verbose else PATIENCE,
            leave=bool(verbose),
            unit="it",
        )

    def advance(self, error: float) -> None:
        """One iteration is done and left this relative error."""
        self._bar.set_postfix_str(f"error {error:.5f}", refresh=False)
        self._bar.update()

    def extend(self, iterations: int) -> None:
        """There is more to do than was announced."""
        self._bar.total += iterations

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
