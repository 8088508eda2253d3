"""POST /checks starts a check, GET /checks/<id> shows how far it is."""

from celery import chain
from celery.result import AsyncResult
from flask import Blueprint, jsonify, request

from linkcheck.tasks import check_links, find_links, report

pages = Blueprint("checks", __name__)


@pages.post("/checks")
def start():
    page = request.get_json()["page"]
    result = chain(find_links.s(page), check_links.s(), report.s()).apply_async()
    return jsonify(id=result.id), 202


@pages.get("/checks/<task_id>")
def show(task_id):
    result = AsyncResult(task_id)
    body = {"id": task_id, "state": result.state}
    if result.successful():
        body["report"] = result.get()
    elif result.failed():
        body["error"] = repr(result.result)
    return jsonify(body)
