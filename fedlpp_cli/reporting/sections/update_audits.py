"""What an update tells of the rows that it was trained on: one section for each that was audited."""

from dataclasses import dataclass
from typing import Final

from fedlpp_cli.records.audits import CanaryTest, UpdateAuditReport
from fedlpp_cli.records.privacy import ExamplePrivacy
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.reporting.content import Facts, Listing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Level, Row, Rows, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.story import Given, Story
from fedlpp_cli.reporting.words import counted, short, task_text
from fedlpp_cli.rounding import six_digits

_EVEN: Final = 0.5  # an AUC, or a share of pairs in order, by tossing a coin
# Exposure in bits of what was not trained on, on the average: 1 / ln 2 (Carlini et al. 2019).
_UNTRAINED: Final = 1.44


@dataclass(frozen=True, slots=True)
class _Test:
    """One attack on the update: what it found, and what guessing finds, as shares."""

    name: str
    about: str
    found: float
    by_guessing: float
    interval: Interval | None = None

    def of_the_way(self, value: float) -> float:
        """How far from guessing, 0, to everything, 1; 0 for less, since everybody can guess."""
        whole = 1 - self.by_guessing
        return six_digits(max(0.0, value - self.by_guessing) / whole) if whole > 0 else 0.0

    def row(self) -> Row:
        if self.interval is None:
            return Row(self.name, self.of_the_way(self.found))
        low, high = self.of_the_way(self.interval.low), self.of_the_way(self.interval.high)
        return Row(self.name, self.of_the_way(self.found), low, high)


def update_audits(story: Story) -> list[Section]:
    """One section each."""
    found = story.of(UpdateAuditReport)
    return [_section(given, audit, number, len(found)) for number, (given, audit) in enumerate(found)]


def _section(given: Given, audit: UpdateAuditReport, number: int, n_audits: int) -> Section:
    suffix = f"-{number + 1}" if number else ""
    tests = _tests(audit)
    parts: list[Part] = [Paragraph(audit.verdict, "verdict"), _facts(audit)]
    parts.append(_figure(tests, suffix) if tests else Paragraph("No test could be made of this update."))
    skipped = [("words", audit.tokens.skipped), ("rows", audit.membership.skipped)]
    not_made = tuple((name, why) for name, why in skipped if why is not None)
    if not_made:
        parts.append(Listing("Not tested", Table(("what", "why"), not_made, text_columns=2)))
    if audit.canaries:
        parts += [_exposures(audit, suffix), Listing("Rows of random words", _canaries(audit))]
    if audit.advice:
        lines = tuple((line,) for line in audit.advice)
        parts.append(Listing("What would let it tell less", Table(("most useful first",), lines)))
    title = "Privacy of the rows behind an update"
    return Section(title if n_audits == 1 else f"{title}: {given.name}", tuple(parts))


def _facts(audit: UpdateAuditReport) -> Facts:
    others = None if audit.control_data is None else f"{short(audit.control_data)}, {audit.membership.n_others} rows"
    return Facts((
        ("trained on", f"{short(audit.data)}, {counted(audit.n_examples, 'row')}, {counted(audit.n_steps, 'step')}"),
        ("held against", others),
        ("task", task_text(audit.task)),
        ("privacy for examples", privacy_text(audit.privacy)),
        ("rows found at one false alarm in a hundred", _percent(audit.membership.true_positive_rate)),
        ("allowed AUC", None if audit.max_auc is None else f"{value_text(audit.max_auc)} at most"),
    ))  # fmt: skip


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def privacy_text(privacy: ExamplePrivacy | None) -> str:
    """What an update promises of single rows."""
    if privacy is None:
        return "none: the update has no noise"
    noise = value_text(privacy.noise_multiplier)
    return f"epsilon {value_text(privacy.epsilon)} at delta {privacy.delta:g}, noise multiplier {noise}"


def _tests(audit: UpdateAuditReport) -> list[_Test]:
    """Those that were made, rows first: what they tell is the most."""
    rows, words, labels = audit.membership, audit.tokens, audit.labels
    tests = []
    if rows.auc is not None:
        about = f"{rows.of}: {counted(rows.n_members, 'row')}, {rows.n_others} others; AUC"
        tests.append(_Test("which rows", about, rows.auc, _EVEN, rows.auc_interval))
    guess = None if words.by_chance is None else max(words.by_chance, words.by_frequency or 0.0)
    if guess is not None:
        of = f"{words.n_tokens} of {words.n_candidates} tokens"
        if words.by_span is not None:
            room = f"{words.rank} directions" + ("" if words.is_exact else ", full")
            tests.append(_Test("which words, by span", f"{of}; {room}", words.by_span, guess))
        if words.by_rise is not None:
            tests.append(_Test("which words, by what became likelier", of, words.by_rise, guess))
    if labels is not None and labels.in_order is not None:
        about = f"{counted(labels.n_pairs, 'pair')} of {labels.n_classes} classes in order"
        tests.append(_Test("how frequent classes are", about, labels.in_order, _EVEN))
    return tests


def _figure(tests: list[_Test], suffix: str) -> Rows:
    return Rows(
        name=f"update-tells{suffix}",
        title="What comes out of the update",
        about="How far each test comes from guessing, 0, to knowing everything, 1. With the 95 % interval, "
        "where there is one. The shares that it was made of are below.",
        x=Axis("share of the way from guessing to everything", from_zero=True),
        rows=tuple(test.row() for test in tests),
        levels=(Level(0.0, "guessing"), Level(1.0, "everything")),
        table=Table(
            ("test", "looked at", "found", "by guessing", "from", "to"),
            tuple(
                (
                    test.name, test.about, test.found, test.by_guessing,
                    *((None, None) if test.interval is None else (test.interval.low, test.interval.high)),
                )
                for test in tests
            ),
            text_columns=2,
        ),
    )  # fmt: skip


def _exposures(audit: UpdateAuditReport, suffix: str) -> Rows:
    rows = []
    for test in audit.canaries:
        style = 1 if test.noise_multiplier is None else 0
        rows.append(Row(f"{_noise(test)}, mean", test.exposure_mean, style=style))
        rows.append(Row(f"{_noise(test)}, highest", test.exposure_max, style=style))
    return Rows(
        name=f"canaries{suffix}",
        title="How well a training like this remembers rows of random words",
        about="Exposure: one bit more for each halving of the rank that a row has by its loss among others that nobody "
        "trained on. Squares are without noise, circles with the noise of differential privacy.",
        x=Axis("exposure (bits)", from_zero=True),
        rows=tuple(rows),
        levels=(Level(_UNTRAINED, "mean of what was not trained on"),),
        table=_canaries(audit),
    )


def _canaries(audit: UpdateAuditReport) -> Table:
    """With noise and without: what attackers refute, and what was promised."""
    rows = tuple(
        (
            _noise(test), test.n_canaries, test.exposure_mean, test.exposure_max, test.auc,
            f"{test.n_right} of {test.n_guesses}", test.epsilon_bound,
            "nothing" if test.epsilon is None else value_text(test.epsilon),
        )
        for test in audit.canaries
    )  # fmt: skip
    head = (
        "training", "canaries", "mean exposure", "highest", "AUC", "guesses right", "epsilon is at least", "promised",
    )  # fmt: skip
    return Table(head, rows)


def _noise(test: CanaryTest) -> str:
    return "without noise" if test.noise_multiplier is None else f"noise {value_text(test.noise_multiplier)}"
