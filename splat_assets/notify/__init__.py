"""Telling people and programs how runs ended: signed webhooks and e-mail, through an outbox."""
