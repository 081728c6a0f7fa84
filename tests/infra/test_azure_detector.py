"""What one detector has of its own on Azure, as far as its template can be read without Bicep's compiler."""

from __future__ import annotations

import json
import re

import bicep
import pytest
from fakes import blob, telling_blob


def test_every_name_that_is_used_is_one_that_is_there() -> None:
    assert bicep.unknown("detector") == set()


def test_every_parameter_is_explained_and_used() -> None:
    for name, parameter in bicep.parsed("detector")["parameters"].items():
        assert any("description" in str(decorator) for decorator in parameter["decorators"]), name
        assert len(re.findall(rf"\b{name}\b", bicep.text("detector"))) > 1, name


def test_what_it_builds_on_has_the_names_that_the_first_template_gives() -> None:
    for kind in ("storageAccounts", "systemTopics"):
        (ours,), (theirs,) = (bicep.of_kind(name, kind).values() for name in ("detector", "template"))
        assert ours["name"] == theirs["name"]


def test_it_hears_of_its_own_videos_and_of_nothing_else() -> None:
    told = bicep.properties("detector", "videosAreTold")["filter"]
    begins = told["subjectBeginsWith"]
    for name, value in {"container": blob.CONTAINER, "prefix": "detectors", "detector": "tiny"}.items():
        begins = begins.replace(f"${{{name}}}", value)
    one = telling_blob.Telling(f"az://{blob.CONTAINER}/detectors", "", "eventgrid", None, None)
    heard = [name for name in NAMES if one.event(name)["subject"].startswith(begins)]
    assert heard == ["tiny/videos/a b.mp4"]
    assert told["isSubjectCaseSensitive"] is True
    assert [kind.rpartition(".")[2] for kind in told["includedEventTypes"]] == ["BlobCreated", "BlobDeleted"]
    from resources.arrivals import azure

    assert set(told["includedEventTypes"]) == set(azure.CAME_OR_WENT)


NAMES = ["tiny/videos/a b.mp4", "tiny/frames/a", "tiny2/videos/a.mp4", "other/videos/a.mp4", "tiny/videos.mp4"]


def test_the_queue_is_the_one_that_the_setting_leads_to() -> None:
    queue = bicep.config("detector", "newVideos")["name"]
    assert queue == "detection-${plain}-videos"
    assert "replace(detector, '_', '-')" in bicep.text("detector")
    setting = bicep.parsed("template")["outputs"]["DETECTION_AZURE_QUEUE"]["value"]
    assert setting.endswith("/" + queue.replace("${plain}", "{detector}"))
    delivery = bicep.properties("detector", "videosAreTold")
    assert delivery["eventDeliverySchema"] == "EventGridSchema"
    to = delivery["deliveryWithResourceIdentity"]["destination"]["properties"]
    assert to["queueName"]["operator"]["operands"]["operand_1"] == "newVideos"
    dead = delivery["deadLetterWithResourceIdentity"]["deadLetterDestination"]["properties"]
    assert dead["blobContainerName"]["operator"]["operands"]["operand_1"] == "undelivered"
    assert bicep.properties("detector", "undelivered")["publicAccess"] == "None"


def test_rights_are_for_one_thing_and_no_more_than_is_said() -> None:
    assert bicep.rights("detector") == {
        "newsTells": ("newVideos", "queueSender", "news"),
        "newsKeeps": ("undelivered", "blobContributor", "news"),
        "dagsterHears": ("newVideos", "queueProcessor", "principal"),
    }
    for name, role in bicep.ROLES.items():
        said = re.findall(rf"var {name} = '(.*)'", "".join(map(bicep.text, ("template", "detector", "production"))))
        assert set(said) == {role}, name
    for one in bicep.of_kind("detector", "roleAssignments").values():
        assert "guid" in str(one["name"]), "it can be deployed again"


def test_news_is_delivered_only_once_it_may_be() -> None:
    assert set(bicep.config("detector", "videosAreTold")["dependsOn"]) == {"newsTells", "newsKeeps"}


@pytest.mark.parametrize("template", ["detector", "production"])
def test_alerts_are_told_to_whom_one_says(template: str) -> None:
    alerts = bicep.of_kind(template, "metricAlerts")
    assert alerts
    for name, one in alerts.items():
        about = one["properties"]
        (criterion,) = about["criteria"]["allOf"]
        assert criterion["criterionType"] == "StaticThresholdCriterion"
        assert criterion["metricNamespace"].startswith("Microsoft."), name
        assert one["location"] == "global"
        assert "actionGroup" in json.dumps(about["actions"]) or about["actions"] == "actions"
    text = bicep.text(template)
    assert "actionGroupId: actionGroup" in text


def test_nobody_watches_an_endpoint_that_is_not_there() -> None:
    found = bicep.parsed("detector")["resources"]
    watching = [name for name, one in found.items() if "onlineEndpoints" in json.dumps(one["config"])]
    assert sorted(watching) == ["endpointFailsAlert", "endpointSlowAlert"]
    assert all("endpoint" in json.dumps(found[name]["config"]["condition"]) for name in watching)
