"""Addresses of the site."""

from blog import views
from django.urls import path

urlpatterns = [
    path("<slug:slug>/", views.entry, name="entry"),
    path("<slug:slug>/comment", views.add_comment, name="add_comment"),
]
