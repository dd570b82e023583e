"""The page of the explorer: wires its controls to the process that computes and to `plots.explorer`."""

import marimo

app = marimo.App(width="full", app_title="simulator: explorer")


@app.cell
def _():
    import marimo as mo

    from simulator import explorer, plots

    return explorer, mo, plots


@app.cell
def _(explorer, mo):
    _start = explorer.Controls()
    _labels = explorer.LABELS

    def _slider(name, step):
        least, most = explorer.LIMITS[name]
        options = {"debounce": True, "show_value": True, "full_width": True, "label": _labels[name]}
        return mo.ui.slider(least, most, step, value=getattr(_start, name), **options)

    def _steps(name):
        options = {"debounce": True, "show_value": True, "full_width": True, "label": _labels[name]}
        return mo.ui.slider(steps=explorer.CHOICES[name], value=getattr(_start, name), **options)

    def _list(name):
        return mo.ui.dropdown(explorer.CHOICES[name], value=getattr(_start, name), label=_labels[name])

    controls = mo.ui.dictionary(
        {
            "task": _list("task"),
            "threat": _list("threat"),
            "left": _list("left"),
            "right": _list("right"),
            "epsilon": _slider("epsilon", 0.05),
            "margin": _slider("margin", 0.1),
            "n": _slider("n", 5),
            "seed": _slider("seed", 1),
            "dim": _steps("dim"),
            "width": _steps("width"),
        }
    )
    return (controls,)


@app.cell
def _(controls, explorer, mo):
    chosen = explorer.Controls(**controls.value)
    _names = list(controls.elements)
    _live = mo.vstack([controls.elements[name] for name in _names[:8]])
    _shapes = mo.vstack([mo.md(explorer.RECOMPILES), *(controls.elements[name] for name in _names[8:])])
    _left = mo.vstack([mo.md("## Why certified training can hurt"), _live, _shapes], gap=1)

    def page(*shown):
        return mo.hstack([_left, mo.vstack(list(shown))], widths=[1, 3], gap=2, align="start")

    def image(png, words):
        return mo.image(png, alt=words, width="100%")

    return chosen, image, page


@app.cell
def _(chosen, explorer, image, mo, page, plots):
    _computer, _drawn = explorer.shared(), {"reach": chosen.reach, "truth": chosen.truth}
    if not _computer.ready(chosen):
        # There is something to see while programs are compiled.
        _figure = plots.explorer_scenery((chosen.left, chosen.right), _computer.scenery(chosen), **_drawn)
        _words = mo.md(explorer.announcement(chosen))
        mo.output.replace(page(image(plots.png(_figure), explorer.before(chosen)), _words))
    result = _computer.answer(chosen)
    _figure = plots.explorer(result.sides, result.scenery, result.epochs, **_drawn)
    _image = image(plots.png(_figure), explorer.description(result))
    page(_image, mo.md(explorer.numbers(result)), mo.md(explorer.status(result)))
    return (result,)


if __name__ == "__main__":
    app.run()
