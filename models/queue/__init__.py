"""The queue: announcements that an action can be claimed, through Celery and a Redis server.

Importing this package removes Celery's own variables from the environment, because Celery reads some of them when it is
imported. So a module that imports Celery imports this package first.
"""

from models.queue.celery_variables import drop_celery_variables

drop_celery_variables()
