"""The result document: what is stored about a task, in whatever store and serializer.

The same for Celery and taskq, since either may read what the other has written.
"""

from __future__ import annotations

from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, cast

from kombu.exceptions import DecodeError
from kombu.serialization import loads
from kombu.serialization import registry as serializer_registry

from taskq import states
from taskq._state import get_current_task
from taskq.backends.compression import compress_payload, decompress_payload
from taskq.backends.error_coding import pack_exception, unpack_exception
from taskq.exceptions import ImproperlyConfigured
from taskq.joining import ResultBase
from taskq.utils.json_writing import is_ours

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = ("Documents", "find_codec")


class Documents:
    """Making and reading result documents, with the serializer of a backend."""

    app: Any
    serializer: str
    content_type: str
    content_encoding: str
    compression: str | None
    accept: Any

    #: Whether documents are made by the methods of this file, and none of a subclass.
    _makes_stock = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = ("_get_result_meta", "current_task_children", "encode", "_write_plain")
        cls._makes_stock = all(getattr(cls, name) is getattr(Documents, name) for name in names)

    # -- writing

    def _write_document(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None,
        request: Context | None,
    ) -> Any:
        """The result document as the store keeps it."""
        if state == states.SUCCESS and request and not traceback and self._makes_stock:
            document = self._write_success(task_id, result, request)
            if document is not None:
                return document
        meta = self._get_result_meta(result, state, traceback, request)
        meta["task_id"] = task_id
        return self.encode(meta)

    def _write_success(self, task_id: str, result: Any, request: Context) -> str | None:
        """The document of a success that has nothing special, as `encode` would write it; or None.

        Nearly all documents are of this form. Written as one text they take half the time.
        """
        if (
            self.serializer != "json"
            or self.compression
            or request.group
            or request.parent_id
            or request.children
            or self.app.conf.result_extended
        ):
            return None
        write = serializer_registry._encoders["json"].encoder
        if not is_ours(write):
            return None
        try:
            return (
                f'{{"status": "SUCCESS", "result": {write(result)}, "traceback": null, '
                f'"children": [], "date_done": "{self._now().isoformat()}", '
                f'"task_id": {encode_basestring_ascii(task_id)}}}'
            )
        except Exception:
            # The long way says what is wrong.
            return None

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: str | None,
        request: Context | None,
        format_date: bool = True,
    ) -> dict[str, Any]:
        """The result document, but for the task id which each store puts where it belongs."""
        date_done: Any = None
        if state in states.READY_STATES:
            date_done = self._now()
            if format_date:
                date_done = date_done.isoformat()
        meta = {
            "status": state,
            "result": result,
            # Half a character in an error's text is something that not every serializer can write.
            "traceback": traceback and traceback.encode(errors="backslashreplace").decode(),
            "children": self.current_task_children(request),
            "date_done": date_done,
        }
        if request:
            if request.group:
                meta["group_id"] = request.group
            if request.parent_id:
                meta["parent_id"] = request.parent_id
            if self.app.conf.result_extended:
                meta.update(_extended_meta(request))
        return meta

    def _now(self) -> datetime:
        if self.app.conf.enable_utc:
            return datetime.now(timezone.utc)
        return cast(datetime, self.app.now())

    def encode_result(self, result: Any, state: str) -> Any:
        """`result` as it is put into the document: exceptions packed, results as tuples."""
        if state in states.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """`exc` in a form that can be stored with `serializer` (default: this backend's)."""
        return pack_exception(exc, serializer or self.serializer, self.encode)

    def prepare_value(self, result: Any) -> Any:
        """`result` in a form that can be stored."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            return cast(Any, result).as_tuple()
        return result

    def current_task_children(self, request: Context | None = None) -> list[Any] | None:
        """Results of the tasks called by the one that runs, as tuples."""
        if request is None:
            task = get_current_task()
            request = getattr(task, "request", None)
        if request is None:
            return None
        return [child.as_tuple() for child in request.children or ()]

    def encode(self, data: Any) -> Any:
        """`data` serialised, and compressed if result_compression says so."""
        payload = self._write_plain(data)
        if self.compression:
            return compress_payload(payload, self.compression)
        return payload

    def _write_plain(self, data: Any) -> Any:
        if self.serializer == "json":
            try:
                return serializer_registry._encoders["json"].encoder(data)
            except Exception:
                # Once more, the way that says what is wrong.
                pass
        return serializer_registry.dumps(data, self.serializer)[2]

    # -- reading

    def decode(self, payload: Any) -> Any:
        """The data that encode() was given."""
        if payload is None:
            return None
        return loads(
            decompress_payload(payload),
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            accept=self.accept,
        )

    def decode_result(self, payload: Any) -> Any:
        """The document in `payload`, exceptions rebuilt."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: Any) -> Any:
        """`meta` with its exception rebuilt."""
        try:
            state = meta["status"]
        except (KeyError, TypeError):
            raise DecodeError(
                f"a result document is a mapping with a status, but this was stored: {meta!r:.200}"
            ) from None
        if state in states.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta.get("result"))
        return meta

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """The exception that prepare_exception() has packed."""
        return unpack_exception(exc)


def find_codec(serializer: str) -> tuple[str, str, Any]:
    """(content type, content encoding, encoder) of a serializer known to kombu."""
    try:
        codec = serializer_registry._encoders[serializer]
    except KeyError:
        known = ", ".join(sorted(serializer_registry._encoders))
        text = f"result_serializer is {serializer!r}, but the serializers here are: {known}."
        if serializer in ("msgpack", "yaml"):
            text += f' It comes with an extra: pip install "taskq[{serializer}]".'
        raise ImproperlyConfigured(text) from None
    return codec.content_type, codec.content_encoding, codec.encoder


def _extended_meta(request: Context) -> dict[str, Any]:
    delivery = request.delivery_info
    meta = {
        "name": getattr(request, "task", None),
        "args": request.args,
        "kwargs": request.kwargs,
        "worker": request.hostname,
        "retries": request.retries,
        "queue": delivery.get("routing_key") if delivery else None,
    }
    if request.stamps:
        meta["stamped_headers"] = request.stamped_headers
        meta.update(request.stamps)
    return meta
