"""Reads reports as those do for whom they are made, and says in JSON what it understood.

read.py schema SCHEMA REPORT   errors of a JSON report against the schema
read.py sarif REPORT           what sarif-tools finds in it, by severity and by rule
read.py junit REPORT           what junitparser finds in it
read.py page PAGE [PICTURE]    what a browser shows of a page, as it is sorted, filtered and asked; PICTURE gets a screenshot
"""

import json
import sys
import tempfile
from pathlib import Path


def schema(schema_file, report):
    from jsonschema import Draft202012Validator

    wanted = json.loads(Path(schema_file).read_text())
    Draft202012Validator.check_schema(wanted)
    found = Draft202012Validator(wanted).iter_errors(json.loads(Path(report).read_text()))
    return [f"{error.json_path}: {error.message}" for error in found]


def sarif(report):
    from sarif import loader

    file = loader.load_sarif_file(report)
    results = file.get_results()
    return {
        "tools": sorted(file.get_distinct_tool_names()),
        "severities": {level: file.get_report().get_issue_count_for_severity(level) for level in ("error", "warning", "note")},
        "rules": sorted({result["ruleId"] for result in results}),
        "places": sorted({record["Location"] for record in file.get_records()}),
    }


def junit(report):
    from junitparser import JUnitXml

    suites = JUnitXml.fromfile(report)
    cases = [case for suite in suites for case in suite]
    kinds = {case.name: [type(result).__name__ for result in case.result] for case in cases}
    return {
        "tests": suites.tests, "failures": suites.failures, "errors": suites.errors, "skipped": suites.skipped, "cases": kinds,
    }


def page(file, picture=None):
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,1150",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
        browser = webdriver.Chrome(options=options, service=service)
        try:
            return look(browser, By, Keys, file, picture)
        finally:
            browser.quit()


def look(browser, By, Keys, file, picture):
    def all(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def one(selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    def rows():
        return [row.get_attribute("data-path") for row in all("#paths tbody tr")]

    browser.get(Path(file).resolve().as_uri())
    if picture:
        browser.save_screenshot(picture)
    said = {
        "title": browser.title,
        "verdict": one("#verdict").text,
        "tiles": [tile.text.replace("\n", " ") for tile in all("#tiles li")],
        "reasons": one("#reasons").text.splitlines(),
        "rows": rows(),
        "shown": one("#shown").text,
        "nodes": len(all("#picture .node")),
        "lines": len(all("#picture line")),
        # How a kind of path looks: its shape, and its colour.
        "looks": sorted({(node.get_attribute("class").split()[1], node.get_attribute("d"), node.value_of_css_property("fill"))
                         for node in all("#picture .node")}),
    }
    one('#paths th button[data-key="name"]').click()
    said["by_name"] = rows()
    one('#paths th button[data-key="name"]').click()
    said["by_name_backwards"] = rows()
    one('#paths th button[data-key="size"]').click()
    said["by_size"] = rows()
    filter_ = one("#filter")
    filter_.send_keys("DAMAGED")
    said["filtered"] = rows()
    said["faded"] = len(all("#picture .node.faded"))
    filter_.send_keys(Keys.CONTROL, "a")
    filter_.send_keys(Keys.DELETE)
    for box in all('#looks input[value="stands"]'):
        box.click()
    said["not_standing"] = rows()
    if rows():
        one("#paths tbody tr").click()
        said["chosen"] = one("#chosen").text.splitlines()
    said["errors"] = [entry["message"] for entry in browser.get_log("browser")]
    # Nothing is fetched but the page itself.
    said["fetched"] = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    return said


if __name__ == "__main__":
    commands = {"schema": schema, "sarif": sarif, "junit": junit, "page": page}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:]), indent=1))
