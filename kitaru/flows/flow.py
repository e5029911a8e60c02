"""``@flow``: a durable function, started from source or as a deployed version."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from kitaru.errors import KitaruInputError, KitaruUsageError
from kitaru.flows.binding import connect
from kitaru.flows.options import Decorated, Retry, check, check_function, checked, policy_of

Result_co = TypeVar("Result_co", covariant=True)


class Handle(Protocol[Result_co]):
    """A running execution, as ``.run()`` and ``.invoke()`` return it. The client's ``FlowHandle`` is one.

    ``status``, at each access anew: ``pending``, ``running``, ``waiting``, ``completed``, ``failed``, ``cancelled``.
    """

    @property
    def exec_id(self) -> str: ...
    @property
    def status(self) -> str: ...

    def wait(self, timeout: float | None = None) -> Result_co:
        """Block until it ends; the flow's result. ``KitaruExecutionError`` if it failed."""
        ...

    def cancel(self) -> None:
        """Cancel it; returns when that is recorded. ``KitaruStateError`` if it has ended before."""
        ...

    def get(self) -> Result_co:
        """The result of a finished execution. ``KitaruStateError`` while it runs."""
        ...


class Deployment(Protocol):
    """A released version, as ``.deploy()`` and ``.deployment()`` return it. The client's ``Deployment`` is one.

    ``tags``: the tags that led here when it was looked up → whether each is exclusive. ``snapshot``: a digest.
    ``commit_dirty``: the working tree had changes. ``input_schema``: a JSON Schema.
    """

    @property
    def flow(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def tags(self) -> Mapping[str, bool]: ...
    @property
    def snapshot(self) -> str: ...
    @property
    def created_at(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def commit_sha(self) -> str | None: ...
    @property
    def commit_dirty(self) -> bool: ...
    @property
    def target(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def input_schema(self) -> Mapping[str, Any] | None: ...


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Flow(Decorated[P, R]):
    """A flow. Start it with ``.run(...)``, or a deployed version of it with ``.invoke(...)``."""

    kind = "flow"

    def __call__(self, *_args: P.args, **_kwargs: P.kwargs) -> R:
        """Not how a flow is started: ``KitaruUsageError``."""
        raise KitaruUsageError(
            f"flow {self.name!r} can't be called directly",
            hint=f"Start it from source with {self.name}.run(...), or a deployed version with {self.name}.invoke(...).",
        )

    @overload
    def run(
        self: Flow[..., Coroutine[Any, Any, T]],
        *args: Any,
        inputs: Mapping[str, Any] | None = None,
        stack: str | None = None,
        retries: int | Retry | None = None,
        cache: bool | None = None,
        image: Any = None,
        **kwargs: Any,
    ) -> Handle[T]: ...

    @overload
    def run(
        self,
        *args: Any,
        inputs: Mapping[str, Any] | None = None,
        stack: str | None = None,
        retries: int | Retry | None = None,
        cache: bool | None = None,
        image: Any = None,
        **kwargs: Any,
    ) -> Handle[R]: ...

    def run(
        self,
        *args: Any,
        inputs: Mapping[str, Any] | None = None,
        stack: str | None = None,
        retries: int | Retry | None = None,
        cache: bool | None = None,
        image: Any = None,
        **kwargs: Any,
    ) -> Handle[Any]:
        """Start an execution from this source and return at once.

        Inputs are the flow's arguments; ``inputs`` takes those with the name of an option. Options win over the
        decorator's. Raises ``KitaruInputError``.
        """
        check(f"flow {self.name!r}", retries=retries, cache=cache)
        self.settled(self.options.retries if retries is None else policy_of(retries))
        return connect().executions.run(  # type: ignore[no-any-return]
            self,
            self.bind(args, self._merged(inputs, kwargs)),
            stack=stack,
            retries=retries,
            cache=cache,
            image=image,
        )

    def invoke(
        self,
        *,
        inputs: Mapping[str, Any] | None = None,
        version: int | None = None,
        tag: str | None = None,
        **kwargs: Any,
    ) -> Handle[Any]:
        """Start an execution of a deployed version, ``default``'s unless ``version`` or ``tag`` is given."""
        return connect().deployments.invoke(  # type: ignore[no-any-return]
            flow=self.name, inputs=self._merged(inputs, kwargs), version=version, tag=tag
        )

    def deploy(
        self,
        *args: Any,
        inputs: Mapping[str, Any] | None = None,
        tag: str | None = None,
        exclusive: bool = False,
        image: Any = None,
        stack: str | None = None,
        **kwargs: Any,
    ) -> Deployment:
        """Save this flow as a new version that others can invoke, and lead one tag to it.

        ``tag`` is ``default`` unless it is given; the first deploy of a flow gets ``default``, too. Inputs are
        representative: consumers override them. Kitaru builds the working tree as it is, and keeps the manifest true:
        that of the current folder, or the one around this flow's file.
        """
        given = self._partial(args, self._merged(inputs, kwargs))
        return connect().deployments.deploy(  # type: ignore[no-any-return]
            self, given or None, tag=tag, exclusive=exclusive, image=image, stack=stack
        )

    def deployment(self, *, version: int | None = None, tag: str | None = None) -> Deployment:
        """A deployed version, ``default``'s unless ``version`` or ``tag`` is given."""
        return connect().deployments.get(self.name, version=version, tag=tag)  # type: ignore[no-any-return]

    def replay(
        self,
        exec_id: str,
        *,
        from_: str | int,
        args: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        version: int | None = None,
        tag: str | None = None,
    ) -> Handle[Any]:
        """Start a new execution that takes over the calls of ``exec_id`` before ``from_``, and runs the rest anew.

        It runs this source, or the deployed version that ``version`` or ``tag`` names. ``from_``: the name of a
        checkpoint or wait, the id of a call, or its position from 1. ``args`` replace inputs; ``overrides`` give
        results and answers: ``{"checkpoint.research": ..., "wait.approve": ...}``.
        """
        here = self if version is None and tag is None else None
        return connect().executions.replay(  # type: ignore[no-any-return]
            exec_id, from_=from_, args=args, overrides=overrides, version=version, tag=tag, flow=here
        )

    def bind(self, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The flow's inputs by name, defaults filled in, converted to the types of the annotations.

        Raises ``KitaruInputError`` with every problem at once.
        """
        return self.parameters.bind_inputs(args, kwargs or {}, f"flow {self.name!r}")

    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the inputs by name, no defaults filled in. ``KitaruInputError`` for an unknown one."""
        try:
            return dict(self.parameters.signature.bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise KitaruInputError(f"the inputs don't fit flow {self.name!r}: {error}") from error

    def _merged(self, inputs: Mapping[str, Any] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if inputs is None:
            return kwargs
        if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
            raise KitaruInputError(
                f"inputs of flow {self.name!r} must be a mapping of names to values, not {inputs!r:.80}"
            )
        if twice := sorted(inputs.keys() & kwargs.keys()):
            raise KitaruInputError(f"flow {self.name!r} was given {', '.join(twice)} both by name and in inputs=")
        return {**inputs, **kwargs}


@overload
def flow(func: Callable[P, R], /) -> Flow[P, R]: ...


@overload
def flow(
    *,
    retries: int | Retry = 0,
    cache: bool | None = None,
    stack: str | None = None,
    image: Any = None,
    timeout: float | None = None,
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...


def flow(
    func: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | Retry = 0,
    cache: bool | None = None,
    stack: str | None = None,
    image: Any = None,
    timeout: float | None = None,
) -> Any:
    """Make a function a flow: ``@flow``, or ``@flow(retries=2)`` to run its body again up to twice when it fails.

    ``timeout``: seconds after which an attempt at the body is stopped and counts as failed.
    """

    def decorate(func: Callable[..., Any]) -> Flow[..., Any]:
        owner = f"flow {getattr(func, '__name__', '?')!r}"
        check_function(func, "@flow")
        # An identifier that address.FLOW_NAME takes; importing that module here would double what this one costs.
        if not func.__name__.isascii() or len(func.__name__) > 100:
            raise KitaruUsageError(
                f"{owner} can't be a flow's name: letters a-z, digits and underscores, at most 100", hint="Rename it."
            )
        check(owner, cache=cache)
        return Flow(func, checked(owner, retries=retries, cache=cache, stack=stack, image=image, timeout=timeout))

    return decorate if func is None else decorate(func)
