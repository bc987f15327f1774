"""Options: where they come from, which wins, what is refused and how."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgraph.config import PREFIX, Config
from taskgraph.errors import UsageError

NEEDED = {"name": "job", "num_tasks": 4}

# Each numeric option with its bounds, both of which are allowed.
INTEGERS = {
    "num_tasks": (1, 2**31 - 1),
    "epochs": (1, 2**62),
    "backups": (0, 1024),
    "seed": (0, 2**128 - 1),
    "ranks_per_host": (1, 2**31 - 1),
}
SECONDS = {"etcd_timeout_s": (0.1, 3600), "lease_s": (2, 3600), "abort_grace_s": (0, 3600)}
CHOICES = {
    "placement": ("buddy", "dedicated"),
    "progress": ("auto", "bar", "lines", "off"),
    "waiting": ("auto", "spin", "yield"),
}


def config(**options: object) -> Config:
    return Config.from_env({}, **{**NEEDED, **options})


def test_a_name_and_a_number_of_tasks_are_enough():
    made = config()
    assert (made.name, made.num_tasks, made.backups, made.epochs, made.etcd) == ("job", 4, 0, None, ())


def test_every_option_says_what_it_means():
    text = (Config.__doc__ or "") + open_source()
    for field in fields(Config):
        after = text.split(f"\n    {field.name}: ")[1]
        assert after.split("\n")[1].strip().startswith('"""'), field.name


def open_source() -> str:
    import inspect

    return inspect.getsource(Config)


def test_a_config_does_not_change():
    with pytest.raises(FrozenInstanceError):
        config().backups = 2  # type: ignore[misc]


@given(st.data())
def test_an_argument_wins_over_the_environment_and_that_over_the_default(data):
    option = data.draw(st.sampled_from([name for name in INTEGERS if name != "num_tasks"]))
    low, high = INTEGERS[option]
    given_, found = data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))
    environ = {PREFIX + option.upper(): str(found)}
    assert getattr(Config.from_env(environ, **NEEDED, **{option: given_}), option) == given_
    assert getattr(Config.from_env(environ, **NEEDED), option) == found
    assert getattr(Config.from_env({}, **NEEDED), option) == Config.__dataclass_fields__[option].default


def test_none_as_an_argument_is_no_argument():
    assert Config.from_env({"TASKGRAPH_EPOCHS": "7"}, **NEEDED, epochs=None).epochs == 7


def test_name_and_number_of_tasks_may_come_from_the_environment_too():
    made = Config.from_env({"TASKGRAPH_NAME": "from-env", "TASKGRAPH_NUM_TASKS": "3"})
    assert (made.name, made.num_tasks) == ("from-env", 3)


@pytest.mark.parametrize("option", sorted(INTEGERS))
def test_an_integer_is_taken_at_its_bounds_and_refused_beyond(option):
    low, high = INTEGERS[option]
    assert getattr(config(**{option: low}), option) == low
    assert getattr(config(**{option: high}), option) == high
    for value in (low - 1, high + 1):
        with pytest.raises(UsageError, match=rf"{option}={value} is out of bounds: {low} to {high}"):
            config(**{option: value})


@pytest.mark.parametrize("option", sorted(SECONDS))
def test_seconds_are_taken_at_their_bounds_and_refused_beyond(option):
    low, high = SECONDS[option]
    assert getattr(config(**{option: low}), option) == low
    assert getattr(config(**{option: high}), option) == high
    for value in (low - 0.01, high + 0.01, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=rf"^{option}="):
            config(**{option: value})


@pytest.mark.parametrize("option", sorted(INTEGERS))
@pytest.mark.parametrize("value", [1.0, "1", True, [1]])
def test_what_is_no_integer_is_not_taken_for_one(option, value):
    with pytest.raises(UsageError, match=rf"{option}=.* is not an integer"):
        config(**{option: value})


@pytest.mark.parametrize("option", sorted(SECONDS))
@pytest.mark.parametrize("value", ["3", True, None.__class__])
def test_what_is_no_number_is_not_taken_for_seconds(option, value):
    with pytest.raises(UsageError, match=rf"{option}=.* is not a number"):
        config(**{option: value})


@pytest.mark.parametrize("option", sorted(CHOICES))
def test_a_choice_is_one_of_its_words(option):
    for word in CHOICES[option]:
        assert getattr(config(**{option: word}), option) == word
    with pytest.raises(UsageError, match=rf"{option}='sideways' is none of {', '.join(CHOICES[option])}"):
        config(**{option: "sideways"})


@pytest.mark.parametrize("option", sorted({**INTEGERS, **SECONDS}))
def test_a_variable_that_is_no_number_is_named_with_its_text(option):
    variable = PREFIX + option.upper()
    with pytest.raises(UsageError, match=rf"{variable}='many' is not (an integer|a number)"):
        Config.from_env({variable: "many"}, **{name: value for name, value in NEEDED.items() if name != option})


@pytest.mark.parametrize("variable", ["TASKGRAPH_BACKUP", "TASKGRAPH_", "TASKGRAPH_backups", "TASKGRAPH_Backups"])
def test_a_misspelt_variable_is_refused_and_the_right_ones_are_named(variable):
    with pytest.raises(UsageError, match=rf"^{variable} is not an option; known are .*TASKGRAPH_BACKUPS"):
        Config.from_env({variable: "1"}, **NEEDED)


def test_variables_of_others_are_left_alone():
    assert Config.from_env({"TASKGRAPHER": "1", "PATH": "/bin", "taskgraph_backups": "1"}, **NEEDED).backups == 0


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_a_plain_name_is_taken(name):
    assert config(name=name).name == name


@given(
    st.one_of(
        st.text().filter(lambda text: not text[:1].isalnum() or not text.isascii()),
        st.text(alphabet="ab/ \n\t:*$\0", min_size=1).filter(lambda text: set(text) - set("ab")),
        st.just("a" * 65),
        st.just("job\n"),
        st.integers(),
        st.binary(),
    )
)
def test_any_other_name_is_refused(name):
    with pytest.raises(UsageError, match=r"is not a plain name: use letters"):
        config(name=name)


def test_endpoints_come_as_text_as_a_list_and_from_the_environment():
    expected = ("a:1", "b:2")
    assert config(etcd="a:1, b:2").etcd == expected
    assert config(etcd=["a:1", "b:2"]).etcd == expected
    assert config(etcd=("a:1", "b:2")).etcd == expected
    assert Config.from_env({"TASKGRAPH_ETCD": "a:1,b:2,"}, **NEEDED).etcd == expected


@pytest.mark.parametrize("endpoint", ["a", "a:", ":1", "a:0", "a:65536", "a:b", "http://a"])
def test_an_endpoint_is_a_host_and_a_port(endpoint):
    with pytest.raises(UsageError, match="is not an endpoint: write host:port"):
        config(etcd=endpoint)


def test_an_endpoint_may_be_an_address_of_ipv6():
    assert config(etcd="[::1]:2379").etcd == ("[::1]:2379",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"etcd_user": "me"}, "etcd_user='me' has no password: set TASKGRAPH_ETCD_PASSWORD_FILE"),
        ({"etcd_password": "x"}, "etcd_password is given without etcd_user"),
        ({"etcd_password_file": __file__}, "etcd_password is given without etcd_user"),
        ({"etcd_user": "me", "etcd_password": "x", "etcd_password_file": __file__}, "not both"),
        ({"etcd_cert": __file__}, "etcd_cert and etcd_key go together"),
        ({"etcd_key": __file__}, "etcd_cert and etcd_key go together"),
        ({"etcd_cert": __file__, "etcd_key": __file__}, "etcd_cert needs etcd_ca"),
        ({"etcd_ca": "/no/such/file"}, "etcd_ca='/no/such/file' cannot be read"),
    ],
)
def test_options_of_etcd_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        config(etcd="a:1", **options)


@pytest.mark.parametrize("options", [{"etcd_user": "me", "etcd_password": "x"}, {"etcd_ca": __file__}])
def test_options_for_an_etcd_of_ones_own_need_its_endpoints(options):
    with pytest.raises(UsageError, match="name its endpoints in etcd"):
        config(**options)


def test_the_password_comes_from_wherever_it_was_given(tmp_path):
    file = tmp_path / "password"
    file.write_text("s3cret \n")
    assert config(etcd="a:1", etcd_user="me", etcd_password_file=str(file)).password() == "s3cret "
    assert config(etcd="a:1", etcd_user="me", etcd_password="x").password() == "x"
    assert config().password() is None


def test_an_argument_that_is_no_option_is_an_error_of_python():
    with pytest.raises(TypeError, match="backup"):
        config(backup=1)


def test_integers_of_numpy_are_integers():
    config = Config(name="a", num_tasks=np.prod((2, 3)), epochs=np.int32(5))
    assert (config.num_tasks, config.epochs) == (6, 5)
    assert type(config.num_tasks) is int
    for wrong in (np.float64(3), np.True_, "3"):
        with pytest.raises(UsageError, match="num_tasks=.*is not an integer"):
            Config(name="a", num_tasks=wrong)
