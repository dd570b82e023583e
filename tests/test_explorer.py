"""The explorer without a browser: what its controls may be, what it answers, and that no slider compiles anything."""

import asyncio
import dataclasses
import io
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time

import jax
import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from programs import quick_jit

from simulator import explorer, plots
from simulator.defences import DEFENCES
from simulator.explorer import assets, command, computer, live, programs, server
from simulator.explorer.controls import TEST_EXAMPLES
from simulator.explorer.programs import Scalars

START = explorer.Controls()
# Every control but the shapes, moved somewhere else, and then several at once.
MOVES = (
    {"epsilon": 0.35},
    {"margin": 3.1},
    {"n": 80},
    {"seed": 7},
    *({"threat": name} for name in explorer.CHOICES["threat"][1:]),
    {"task": "linearly separable"},
    *({"left": name, "right": name} for name in DEFENCES if name not in ("adversarial", "coap")),
    {"epsilon": 0.0, "n": 10, "task": "linearly separable", "threat": "along the signal", "margin": 0.2},
)


@pytest.fixture(scope="module")
def compiled():
    """Programs for the shape of the start, compiled once for all tests."""
    one = live.Live()
    for program in one.begin(START.shape, programs.PROGRAMS):
        program.result()
    return one


@pytest.fixture(scope="module")
def started(compiled):
    return compiled.answer(START)


# ---- controls ----


@pytest.mark.parametrize(
    ("name", "value", "because"),
    [
        ("epsilon", 3.01, "epsilon is 3.01, but must be between 0.0 and 3.0"),
        ("epsilon", float("nan"), "epsilon is nan"),
        ("n", 101, "n is 101, but must be between 10 and 100"),
        ("threat", "l3", "threat is 'l3', but must be one of l2 ball, l∞ box"),
        ("right", "hope", "right is 'hope', but must be one of standard, adversarial"),
        ("dim", 4, "dim is 4, but must be one of 2, 3, 5"),
    ],
)
def test_a_value_that_cannot_be_set_is_refused(name, value, because):
    with pytest.raises(ValueError, match=re.escape(because)):
        explorer.Controls(**{name: value})


def test_every_control_has_limits_and_a_label():
    names = {field.name for field in dataclasses.fields(explorer.Controls)}
    assert set(explorer.CHOICES) | set(explorer.LIMITS) == names == set(explorer.LABELS)


@pytest.mark.parametrize("move", MOVES)
def test_arguments_have_the_same_types_at_every_setting(move):
    """What a compiled program is given may not differ in type, or it would refuse it."""
    base, moved = (Scalars.of(dataclasses.replace(START, **one)) for one in ({}, move))
    assert [type(value) for value in base] == [type(value) for value in moved]
    assert dataclasses.replace(START, **move).shape == START.shape


@pytest.mark.parametrize("task", explorer.CHOICES["task"])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_the_plane_holds_the_example_shown_and_the_signal_there(task, dim):
    at = Scalars.of(dataclasses.replace(START, task=task, dim=dim, n=10))
    made = quick_jit(lambda at: programs.problem(explorer.Shape(dim, 10), at))(at)
    plane, shown = np.asarray(made.plane), int(made.shown)
    np.testing.assert_allclose(plane @ plane.T, np.eye(2), atol=1e-5)
    assert made.y[shown] == -1
    assert shown < 10
    assert int(made.weight.sum()) == 10
    signal = np.asarray(made.task.signal(made.x[shown], made.y[shown]))
    for vector in (np.asarray(made.x[shown]), signal):
        np.testing.assert_allclose(plane.T @ (plane @ vector), vector, atol=1e-4)
    inside = np.abs(np.asarray(made.x[shown]) @ plane.T) <= at.reach
    assert inside.all()


# ---- answers ----


@pytest.mark.slow
@pytest.mark.ci
def test_no_slider_but_those_of_shapes_compiles_anything(compiled, started):
    """JAX announces every compilation, also of the smallest operation outside of the programs."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: seen.append(event))
    for move in MOVES:
        answer = compiled.answer(dataclasses.replace(START, **move))
        assert answer.compile_seconds == 0
    assert not [event for event in seen if "compile" in event]
    # The listener hears: a new shape is another program.
    jax.jit(lambda x: x + 1)(np.float32(1))
    assert [event for event in seen if "compile" in event]
    assert compiled.ready(START)
    assert not compiled.ready(dataclasses.replace(START, width=10))


@pytest.mark.slow
@pytest.mark.ci
def test_errors_are_in_order_and_what_the_picture_says(compiled, started):
    for one in (started, compiled.answer(dataclasses.replace(START, threat="l∞ box", left="standard", right="ibp"))):
        for _, side in one.sides:
            errors = np.array([side[name] for name in ("standard_error", "robust_error", "certified_error")])
            assert (errors >= 0).all()
            assert (errors <= 1).all()
            # A share of the test examples.
            np.testing.assert_allclose(errors * TEST_EXAMPLES, np.round(errors * TEST_EXAMPLES), atol=1e-3)
            assert (np.diff(errors) >= 0).all()
            assert f"{errors[1]:.3f}" in explorer.numbers(one)
    assert [name for name, _ in started.sides] == ["adversarial", "coap"]
    # Certified training does what it is for, and pays for it, at the setting the page opens with.
    assert started.right["certified_error"] < started.left["certified_error"]
    assert started.right["robust_error"] > started.left["robust_error"] + 0.1


@pytest.mark.slow
@pytest.mark.ci
def test_examples_without_weight_change_nothing(compiled):
    """A training set of n, and the same of which others were drawn besides: the data that are shown are the first n."""
    few, many = (compiled.answer(dataclasses.replace(START, n=n)) for n in (20, 100))
    np.testing.assert_array_equal(few.scenery["x"], many.scenery["x"][:20])
    assert few.scenery["x"].shape == (20, 2)
    assert few.left["loss"][-1] < many.left["loss"][-1]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("threat", explorer.CHOICES["threat"])
def test_perturbations_and_the_outline_are_of_the_set(compiled, threat):
    epsilon = 0.7
    one = compiled.answer(dataclasses.replace(START, threat=threat, epsilon=epsilon))
    signal, outline = one.scenery["signal"], one.scenery["outline"]
    perturbations = [np.stack([side[name][0] for _, side in one.sides]) for name in ("attack", "dual")]
    for delta in (outline, *perturbations):
        along = delta @ signal
        across = np.linalg.norm(delta - along[:, None] * signal, axis=1)
        reach = {
            "l2 ball": np.linalg.norm(delta, axis=1),
            "l∞ box": np.abs(delta).max(axis=1),
            "along the signal": np.maximum(np.abs(along), across * 1e4),
            "across the signal": np.maximum(across, np.abs(along) * 1e4),
        }[threat]
        # Rounding of a unit vector is amplified where nothing at all is allowed.
        assert (reach <= epsilon * (1 + 1e-2)).all()
    np.testing.assert_allclose(np.abs(outline @ np.eye(2)).max(), epsilon, rtol=0.3)


def test_a_picture_is_drawn_upon_what_no_setting_changes():
    """Which stays as it was, and shows wherever nothing is drawn."""
    early = {"x": np.zeros((1, 2)), "y": np.ones(1), "place": np.zeros(2), "signal": np.ones(2)}
    early["outline"] = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    figure = plots.explorer_scenery(("ibp", "coap"), early, reach=2.0, truth=np.inf)
    first, again = (mpl.image.imread(io.BytesIO(plots.png(figure, dpi=40))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    _, blank = plots.explorer_frame(40), Figure(figsize=figure.get_size_inches())
    blank.patch.set_visible(False)
    frame = mpl.image.imread(io.BytesIO(plots.png(blank, dpi=40)))
    assert frame.shape == first.shape == (276, 456, 4)
    middle = first.shape[0] // 2
    # Numbers and key are below, data above; opaque everywhere.
    np.testing.assert_array_equal(first[-20:], frame[-20:])
    assert (frame[-20:] != 1).any()
    assert (first[:middle, :300] != frame[:middle, :300]).any()
    assert (first[..., 3] == 1).all()


def pictured(answer):
    at = answer.controls
    return plots.explorer(answer.sides, answer.scenery, answer.epochs, reach=at.reach, truth=at.truth)


@pytest.mark.slow
@pytest.mark.ci
def test_the_picture_shows_every_answer(compiled, started):
    """Also of a training that diverged, and of a set with nothing in it."""
    empty = compiled.answer(dataclasses.replace(START, epsilon=0.0))
    left, right = ({**side, "diverged": True, "loss": side["loss"] * np.nan} for _, side in started.sides)
    failed = dataclasses.replace(started, left=left, right=right)
    for one in (started, empty, failed):
        picture = plots.png(pictured(one), dpi=40)
        assert picture.startswith(b"\x89PNG")
        assert picture == plots.png(pictured(one), dpi=40)
    titles = [axes.get_title() for axes in pictured(failed).axes[:2]]
    assert titles == ["training diverged"] * 2
    assert "Training diverged" in explorer.status(failed)
    assert "nothing was compiled" in explorer.status(empty)
    assert "adversarial and coap on concentric spheres" in explorer.description(started)


@pytest.mark.slow
@pytest.mark.ci
def test_the_picture_before_anything_is_trained_shows_the_same_data(compiled, started):
    early = compiled.scenery(START)
    jax.tree.map(np.testing.assert_array_equal, early, started.scenery)
    figure = plots.explorer_scenery((START.left, START.right), early, reach=START.reach, truth=START.truth)
    assert plots.png(figure, dpi=40).startswith(b"\x89PNG")
    drawn, trained = figure.axes[0], pictured(started).axes[0]
    assert drawn.get_title() == "AT: not trained yet"
    # Its points, outline and boundary are those of the trained picture, whose region lies beneath.
    for axes in (drawn, trained):
        inside = [one for one in axes.collections if len(one.get_offsets()) > 1]
        assert sum(len(one.get_offsets()) for one in inside) == START.n
    # Perturbations are annotations, and only one vector is known before: the signal.
    assert len(drawn.texts) < len(trained.texts)
    assert drawn.get_xlim() == trained.get_xlim() == (-START.reach, START.reach)
    assert "compiling for d = 2 and 100 hidden neurons" in explorer.announcement(START)
    assert "l2 ball of radius 0.9" in explorer.before(START)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("ready", [True, False])
def test_the_page_runs_and_shows_the_answer(compiled, monkeypatch, ready):
    """All cells of the page, without a server: controls, picture, numbers, whether programs are there or not."""
    asked = []
    scenery = compiled.scenery
    monkeypatch.setattr(compiled, "scenery", lambda controls: asked.append(controls) or scenery(controls))
    monkeypatch.setattr(compiled, "ready", lambda controls: ready)
    monkeypatch.setattr(explorer, "shared", lambda: compiled)
    from simulator.explorer import page

    outputs, defined = page.app.run()
    assert set(defined["controls"].elements) == {field.name for field in dataclasses.fields(explorer.Controls)}
    assert explorer.Controls(**defined["controls"].value) == START
    shown = "".join(output.text for output in outputs if hasattr(output, "text"))
    assert f"{defined['result'].right['robust_error']:.3f}" in shown
    assert ("nothing was compiled" in shown) == ready
    assert asked == ([] if ready else [START])


def test_a_setting_is_ready_once_its_programs_are_compiled(monkeypatch):
    monkeypatch.setattr(live, "compiled", lambda shape, name: print)
    fresh = live.Live()
    assert not fresh.ready(START)
    for program in fresh.begin(START.shape, live.needed(START)):
        program.result()
    assert fresh.ready(START)
    assert not fresh.ready(dataclasses.replace(START, right="ibp"))


def test_a_program_that_failed_is_compiled_again(monkeypatch):
    """As when memory ran out meanwhile."""
    outcomes = [MemoryError("no room"), print]

    def compiled(shape, name):
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(live, "compiled", compiled)
    monkeypatch.setattr(live, "needed", lambda controls: ("draw",))
    fresh = live.Live()
    with pytest.raises(MemoryError, match="no room"):
        fresh.begin(START.shape, ["draw"])[0].result()
    assert not fresh.ready(START)
    assert fresh.begin(START.shape, ["draw"])[0].result() is print
    assert fresh.ready(START)


def test_what_nobody_asked_for_is_compiled_one_program_after_another(monkeypatch):
    begun, go_on = [], threading.Event()
    monkeypatch.setattr(live, "compiled", lambda shape, name: begun.append(name) or go_on.wait(60))
    fresh = live.Live()
    asked = fresh.begin(START.shape, live.needed(START))
    assert fresh.begin_another(START.shape)
    assert set(begun) <= set(live.needed(START))
    go_on.set()
    for program in asked:
        program.result()
    for name in ("standard", "crown-ibp", "ibp"):
        assert fresh.begin_another(START.shape)
        assert fresh.begin(START.shape, [name])[0].result()
        assert begun[-1] == name
    assert not fresh.begin_another(START.shape)
    assert sorted(begun) == sorted(programs.PROGRAMS)


# ---- the process that computes ----


@pytest.mark.parametrize("after", [0, 2])
def test_compiling_ahead_stops_when_somebody_asks(monkeypatch, after):
    monkeypatch.setattr(computer, "QUIET", 0.01)
    ours, theirs = multiprocessing.Pipe()
    begun = []

    class Answers:
        def begin_another(self, shape):
            begun.append(shape)
            if len(begun) == after:
                ours.send("a question")
            return len(begun) < 100

    if after == 0:
        ours.send("a question")
    computer._compile_ahead(Answers(), START.shape, theirs)
    assert begun == [START.shape] * after
    assert theirs.recv() == "a question"


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        # Not the user's kept programs: with another number of cores they were compiled to other sums.
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        one = explorer.Computer()
    yield one
    one.end()


@pytest.mark.slow
@pytest.mark.ci
def test_another_process_answers_the_same(other_process, compiled, started):
    assert not other_process.ready(START)
    early = other_process.scenery(START)
    answer = other_process.answer(START)
    jax.tree.map(np.testing.assert_array_equal, early, answer.scenery)
    assert (answer.controls, answer.epochs) == (START, started.epochs)
    jax.tree.map(np.testing.assert_array_equal, dict(answer.sides), dict(started.sides))
    assert other_process.ready(START)
    assert not other_process.ready(dataclasses.replace(START, dim=3))


@pytest.mark.slow
@pytest.mark.ci
def test_what_fails_in_the_process_is_said_and_does_not_end_it(other_process):
    unknown = dataclasses.replace(START)
    object.__setattr__(unknown, "left", "hope")
    with pytest.raises(explorer.ComputerError, match="hope"):
        other_process.answer(unknown)
    assert other_process.answer(START).controls == START


@pytest.mark.slow
@pytest.mark.ci
def test_a_process_that_has_ended_is_said_to_have(other_process):
    """Last of its process."""
    other_process.end()
    with pytest.raises(explorer.ComputerError, match="has ended: start the explorer again"):
        other_process.answer(START)


@pytest.mark.slow
@pytest.mark.ci
def test_the_process_goes_with_the_one_that_started_it():
    """Killed, it can tell nobody: the other end of the pipe is gone."""
    lines = "from simulator.explorer import Computer; c = Computer(); print(c._process.pid, flush=True); input()"
    command = [sys.executable, "-c", lines]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(600):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("still there after a minute")


def test_what_the_page_needs_loads_nothing_that_takes_time():
    lines = "import sys; import simulator.explorer; print({'jax', 'matplotlib', 'xarray', 'marimo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_compiler_without_the_switch_compiles_all_the_same(monkeypatch):
    monkeypatch.setattr(programs, "EMITTERS", "xla_has_no_such_switch")
    made, _ = programs.compiled(START.shape, programs.DRAW)(Scalars.of(START))
    assert int(made.weight.sum()) == START.n


# ---- serving it ----


def answered(app, path, method="GET"):
    """What an ASGI application sends: (status, headers, body)."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(part["body"] for part in sent[1:])


async def elsewhere(scope, receive, send):
    """A page that says what it was asked."""
    await send({"type": "http.response.start", "status": 203, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['method']} {scope['path']}".encode()})


def test_a_file_of_the_page_is_sent_as_it_is():
    files = assets.assets()
    assert len(files) > 100  # marimo has them where they are looked for
    app = assets.with_assets(elsewhere)
    for kind, said in {".js": b"text/javascript", ".css": b"text/css", ".png": b"image/png"}.items():
        path = next(path for path in sorted(files) if path.endswith(kind))
        status, headers, body = answered(app, path)
        assert (status, headers[b"content-type"]) == (200, said)
        assert body == files[path].read_bytes()
        assert int(headers[b"content-length"]) == len(body)


@pytest.mark.parametrize("path", ["/", "/assets/", "/assets/none.js", "/assets/../index.html", "/file.js", "{}"])
def test_everything_else_is_asked_of_the_page(path):
    path = path.format(next(iter(assets.assets())).removeprefix("/assets"))  # a file, without its folder
    assert answered(assets.with_assets(elsewhere), path) == (203, {}, f"GET {path}".encode())


def test_a_file_is_only_read():
    path = next(iter(assets.assets()))
    assert answered(assets.with_assets(elsewhere), path, "POST") == (203, {}, f"POST {path}".encode())


def test_a_marimo_with_another_folder_sends_its_files_itself(monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    assert assets.assets() == {}


# ---- starting it ----


def test_without_the_extra_it_is_refused_in_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert command.main(["explore", "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert said == "simulator: the explorer needs marimo, which is not installed: pip install 'simulator[explorer]'\n"


@pytest.mark.parametrize("port", [-1, 70000, "taken"])
def test_a_port_that_cannot_be_had_is_refused(capsys, monkeypatch, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        given = other.getsockname()[1] if port == "taken" else port
        assert command.main(["explore", "--no-browser", f"--port={given}"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"simulator: port {given} cannot be had \([^\n]+\): give another --port[^\n]+\n", said)


def test_only_this_machine_can_reach_it():
    with server._listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_explore_loads_no_server_until_it_is_asked_to():
    """Neither marimo nor a server is needed to use the rest."""
    lines = "import sys; from simulator import cli, explorer; print({'marimo', 'uvicorn'} & set(sys.modules))"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "set()\n"
