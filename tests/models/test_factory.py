"""Networks of the user's own, named `module:function`: what is passed, and what is refused."""

import sys

import pytest
from torch import nn

from sparselth import SparselthError, models

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, **got):
        super().__init__()
        self.got = got

class Whole(Net):
    def __init__(self, num_classes, in_channels=1, *, width=1.0):
        super().__init__(num_classes=num_classes, in_channels=in_channels, width=width)

def every(num_classes, in_channels, width): return Net(**locals())
def classes(num_classes, depth=3): return Net(**locals())
def nothing(): return Net()
def anything(**got): return Net(**got)
def more(width, **got): return Net(width=width, **got)
def positional(num_classes, /): return Net(**locals())
def deep(num_classes, depth): return Net(**locals())
def text(): return "a network"
def fails(): raise RuntimeError("inside")
number = 7
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Write the module own_nets_of_test, which is forgotten afterwards."""
    name = "own_nets_of_test"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "passed"),
    [
        ("every", {"num_classes": 5, "in_channels": 2, "width": 1.0}),
        ("Whole", {"num_classes": 5, "in_channels": 2, "width": 1.0}),
        ("classes", {"num_classes": 5, "depth": 3}),
        ("nothing", {}),
        ("anything", {"num_classes": 5}),
        ("more", {"num_classes": 5, "width": 1.0}),
    ],
)
def test_a_function_gets_what_it_takes(nets, function, passed):
    model = models.build(f"{nets}:{function}", num_classes=5, in_channels=2)
    assert isinstance(model, nn.Module)
    assert model.got == passed


def test_width_is_passed_where_it_is_taken_and_refused_elsewhere(nets):
    for function in ("every", "Whole", "more"):
        assert models.build(f"{nets}:{function}", width=0.5).got["width"] == 0.5
    for function in ("classes", "anything", "nothing"):
        with pytest.raises(SparselthError, match=r"width=0.5, but the function takes no width"):
            models.build(f"{nets}:{function}", width=0.5)


def test_a_package_of_functions(nets, tmp_path):
    (tmp_path / "own_package_of_test/inner").mkdir(parents=True)
    (tmp_path / "own_package_of_test/inner/nets.py").write_text(SOURCE)
    assert models.build("own_package_of_test.inner.nets:classes").got["num_classes"] == 10
    for name in [name for name in sys.modules if name.startswith("own_package_of_test")]:
        del sys.modules[name]


def test_torchvisions_functions_fit():
    pytest.importorskip("torchvision")
    model = models.build("torchvision.models:squeezenet1_1", num_classes=7)
    assert model.num_classes == 7


def test_the_current_folder_is_searched(tmp_path, monkeypatch):
    # As the installed command has it: neither the folder nor "" is on the path.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_nets_here.py").write_text(SOURCE)
    models.check("own_nets_here:nothing")
    assert sys.path.count(str(tmp_path)) == 1
    models.check("own_nets_here:every")
    assert sys.path.count(str(tmp_path)) == 1
    del sys.modules["own_nets_here"]


@pytest.mark.parametrize("name", models.names())
def test_known_names_pass_the_check(name):
    models.check(name)


@pytest.mark.parametrize(
    "name", ["resnet2000", "", "nets:", ":make", "a/b.py:make", "a:b:c", "a..b:c", "a b:c", "1a:b"]
)
@pytest.mark.parametrize("use", [models.check, models.build])
def test_other_names_are_refused(name, use):
    with pytest.raises(SparselthError, match=r"unknown model .*resnet20.*or module:function"):
        use(name)


@pytest.mark.parametrize("use", [models.check, models.build])
def test_what_cannot_be_found_is_said(nets, use):
    with pytest.raises(SparselthError, match=r"No module named 'own_absent'.*current folder"):
        use("own_absent:make")
    with pytest.raises(SparselthError, match=rf"{nets}.py has no absent; define"):
        use(f"{nets}:absent")
    with pytest.raises(SparselthError, match=r"number in .*type int, expected a function"):
        use(f"{nets}:number")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("def make(:", "SyntaxError"),
        ("import absent_package", "ModuleNotFoundError"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_module_that_fails_says_why(tmp_path, monkeypatch, content, error):
    (tmp_path / "own_broken.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SparselthError, match=rf"imported \({error}") as caught:
        models.check("own_broken:make")
    assert "\n" not in str(caught.value)


def test_a_function_that_needs_more_is_refused(nets):
    with pytest.raises(SparselthError, match=r"missing a required argument: 'depth'.*default"):
        models.build(f"{nets}:deep")
    with pytest.raises(SparselthError, match=r"num_classes.*default"):
        models.build(f"{nets}:positional")


def test_something_else_than_a_module_is_refused(nets):
    with pytest.raises(SparselthError, match=r"returned a str, expected a torch.nn.Module"):
        models.build(f"{nets}:text")


def test_an_error_of_the_function_is_its_own(nets):
    with pytest.raises(RuntimeError, match="inside"):
        models.build(f"{nets}:fails")


def test_impossible_numbers_are_refused(nets):
    with pytest.raises(SparselthError, match=r"num_classes of model.*got 0"):
        models.build(f"{nets}:every", num_classes=0)


def test_lazy_layers_are_refused(tmp_path, monkeypatch):
    (tmp_path / "own_lazy.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.LazyLinear(3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SparselthError, match=r"lazy layers.*pass an image"):
        models.build("own_lazy:make")
