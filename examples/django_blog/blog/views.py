"""Reading an entry, and commenting on it."""

from django import forms
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from blog import tasks
from blog.models import Comment, Entry


class CommentForm(forms.ModelForm):
    class Meta:
        model = Comment
        fields = ["name", "email_address", "homepage", "comment"]


def entry(request, slug):
    comments = Comment.objects.filter(entry__slug=slug).order_by("pk")
    return JsonResponse({"comments": list(comments.values("name", "comment", "is_spam"))})


@csrf_exempt  # there is no login here that a request could be forged for
@transaction.atomic
def add_comment(request, slug):
    post = get_object_or_404(Entry, slug=slug)
    form = CommentForm(request.POST)
    if not form.is_valid():
        return JsonResponse(form.errors, status=400)
    form.instance.entry = post
    comment = form.save()
    # Checked in the background, once the comment is there to be read.
    tasks.spam_filter.delay_on_commit(
        comment_id=comment.id, remote_addr=request.META.get("REMOTE_ADDR")
    )
    if not post.allows_comments:
        # The comment is rolled back, and nobody looks for it.
        raise PermissionDenied("this entry takes no comments")
    return HttpResponseRedirect(post.get_absolute_url())
