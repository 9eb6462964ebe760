"""Phones and other machines: adb, Android builds, remote measuring, what is installed here."""
