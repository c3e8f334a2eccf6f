"""The gateway's picture of the cluster: what the watches said, and the tables that are derived from it.

Tables are rebuilt when they are next asked for, so a burst of events costs one rebuild.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from slipway_gateway import objects
from slipway_gateway.objects import Deployment, Endpoint, Key, SecretData, Slice
from slipway_gateway.routing import Routes, build, endpoints_of
from slipway_gateway.tenants import Keyring, read_tenants

log = logging.getLogger(__name__)


class Keyed(Protocol):
    """A record that says which object it is of."""

    @property
    def key(self) -> Key:
        """Namespace and name."""


T = TypeVar("T", bound=Keyed)


class Store(Generic[T]):
    """The slim records of one kind, from any number of watches."""

    def __init__(self, read: Callable[[Any], T | None], changed: Callable[[T], None]) -> None:
        self._read = read
        self._changed = changed
        self._records: dict[Key, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: Key) -> T | None:
        """Return the record under `key`."""
        return self._records.get(key)

    def sink(self, namespace: str | None) -> StoreSink[T]:
        """Return the sink of a watch over one namespace, or over all."""
        return StoreSink(self, self._read, namespace)

    def set(self, key: Key, record: T | None) -> None:
        """Keep `record` under `key`, or nothing."""
        known = self._records.get(key)
        if record == known:
            return
        if record is None:
            del self._records[key]
        else:
            self._records[key] = record
        for touched in (known, record):
            if touched is not None:
                self._changed(touched)

    def keys_in(self, namespace: str | None) -> list[Key]:
        """Return the keys of one namespace, or of all."""
        return [key for key in self._records if namespace in (None, key.namespace)]


class StoreSink(Generic[T]):
    """The part of a store that one watch fills."""

    def __init__(self, store: Store[T], read: Callable[[Any], T | None], namespace: str | None) -> None:
        self._store = store
        self._read = read
        self._namespace = namespace

    def slim(self, obj: Any) -> T | None:
        """Return what is kept of an object."""
        return self._read(obj)

    def replace(self, objects: list[T]) -> None:
        """These records are all there are."""
        present = {record.key for record in objects}
        for key in self._store.keys_in(self._namespace):
            if key not in present:
                self._store.set(key, None)
        for record in objects:
            self._store.set(record.key, record)

    def put(self, obj: Any) -> None:
        """This object exists, in this form."""
        key = objects.read_key(obj)
        if key is not None:
            self._store.set(key, self._read(obj))

    def remove(self, obj: Any) -> None:
        """This object is gone."""
        key = objects.read_key(obj)
        if key is not None:
            self._store.set(key, None)


class World:
    """Deployments, their pods, and the tenants."""

    def __init__(self) -> None:
        self.deployments: Store[Deployment] = Store(objects.read_deployment, self._deployment_changed)
        self.slices: Store[Slice] = Store(objects.read_slice, self._slice_changed)
        self.secrets: Store[SecretData] = Store(objects.read_secret, self._secret_changed)
        self._routes: Routes | None = None
        self._keyring: Keyring | None = None
        self._slices_of: dict[Key, dict[Key, Slice]] = defaultdict(dict)
        self._endpoints: dict[Key, tuple[Endpoint, ...]] = {}
        self.generation = 0
        """Grows whenever a deployment comes, goes or changes."""
        self.told: Callable[[Key], None] = lambda _: None
        """Called after a deployment, or its pods, changed."""

    def routes(self) -> Routes:
        """Return the routes as of now."""
        if self._routes is None:
            self._routes = build(self.deployments)
        return self._routes

    def keyring(self) -> Keyring:
        """Return the keys as of now."""
        if self._keyring is None:
            self._keyring, complaints = read_tenants(self.secrets)
            for complaint in complaints:
                log.warning("tenant Secret %s is not used: %s", complaint.secret, complaint.sentence)
        return self._keyring

    def endpoints(self, key: Key) -> tuple[Endpoint, ...]:
        """Return the ready pods of a deployment."""
        known = self._endpoints.get(key)
        if known is None:
            known = self._endpoints[key] = endpoints_of(self._slices_of.get(key, {}).values())
        return known

    def _deployment_changed(self, deployment: Deployment) -> None:
        self._routes = None
        self._endpoints.pop(deployment.key, None)
        self.generation += 1
        self.told(deployment.key)

    def _secret_changed(self, _: SecretData) -> None:
        self._keyring = None

    def _slice_changed(self, piece: Slice) -> None:
        # Called for the slice as it was and as it is: the service it left is recomputed too.
        current = self.slices.get(piece.key)
        of = self._slices_of[piece.service]
        if current is not None and current.service == piece.service:
            of[piece.key] = current
        else:
            of.pop(piece.key, None)
        if not of:
            del self._slices_of[piece.service]
        self._endpoints.pop(piece.service, None)
        self.told(piece.service)
