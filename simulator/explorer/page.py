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
    _chosen = explorer.Controls(**controls.value)
    with mo.status.spinner(explorer.shared().announcement(_chosen)):
        result = explorer.shared().answer(_chosen)
    return (result,)


@app.cell
def _(controls, explorer, mo, plots, result):
    _names = list(controls.elements)
    _live = mo.vstack([controls.elements[name] for name in _names[:8]])
    _shapes = mo.vstack([mo.md(explorer.RECOMPILES), *(controls.elements[name] for name in _names[8:])])
    _at = result.controls
    _figure = plots.explorer(result.sides, result.epochs, reach=_at.reach, truth=_at.truth)
    _image = mo.image(plots.png(_figure), alt=explorer.description(result), width="100%")
    _left = mo.vstack([mo.md("## Why certified training can hurt"), _live, _shapes], gap=1)
    _right = mo.vstack([_image, mo.md(explorer.numbers(result)), mo.md(explorer.status(result))])
    mo.hstack([_left, _right], widths=[1, 3], gap=2, align="start")
    return


if __name__ == "__main__":
    app.run()
