// What one detector of Detection Assets has of its own on Azure: a queue that hears of its videos (two detectors with
// one queue would take each other's messages), and alerts about what could not be told and about its endpoint. Deploy
// template.bicep first.
//
//   az deployment group create --resource-group detection --name fridge --template-file infra/azure/detector.bicep \
//     --parameters name=mydetection detector=fridge principal=<object id>

targetScope = 'resourceGroup'

@description('As template.bicep was given it.')
@minLength(3)
@maxLength(18)
param name string

@description('The detector\'s name, as in detectors/<name>.yaml.')
@maxLength(40)
param detector string

@description('Object id of the user, group or service principal that runs Dagster.')
param principal string

@description('What the principal is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string = 'ServicePrincipal'

@description('The lake\'s container, as template.bicep was given it.')
param container string = 'lake'

@description('The lake\'s folder in the container.')
param prefix string = 'detectors'

@description('The detector\'s online endpoint, once it is there: Azure lets nobody watch what is not. Empty for no alerts about it.')
param endpoint string = ''

@description('Requests a minute that the endpoint may fail, over five minutes, before it is an alert.')
@minValue(0)
param errorsPerMinute int = 1

@description('Milliseconds that 95 of 100 requests may take at most before it is an alert.')
@minValue(1)
param latencyMs int = 2000

@description('Id of an action group that is told of alerts; empty for none.')
param actionGroup string = ''

// The built-in roles that are given below, by the ids that Azure has for them everywhere.
var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var queueSender = 'c6a89b2d-59bc-44d0-9896-0f6e12d7b80a'
var queueProcessor = '8a0f0c08-91a1-4084-bc3d-661d67233fed'

// A queue's name has no underscores.
var plain = replace(detector, '_', '-')
var actions = empty(actionGroup) ? [] : [
  {
    actionGroupId: actionGroup
  }
]

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: '${name}lake'
}

resource news 'Microsoft.EventGrid/systemTopics@2022-06-15' existing = {
  name: '${name}-news'
}

// The queue ----------------------------------------------------------------------------------------------------------

resource queues 'Microsoft.Storage/storageAccounts/queueServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

// Whoever takes a message hides it for as long as suits him.
resource newVideos 'Microsoft.Storage/storageAccounts/queueServices/queues@2023-05-01' = {
  parent: queues
  name: 'detection-${plain}-videos'
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

// What could not be told, as blobs. A storage queue has no dead letters of its own: what five ticks of the sensor died
// of is ended with a line in its log.
resource undelivered 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'detection-${plain}-undelivered'
  properties: {
    publicAccess: 'None'
  }
}

// Of files that came and files that went: a folder of images changes by either.
resource videosAreTold 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2022-06-15' = {
  parent: news
  name: 'detection-${plain}-videos'
  properties: {
    deliveryWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      destination: {
        endpointType: 'StorageQueue'
        properties: {
          resourceId: account.id
          queueName: newVideos.name
          queueMessageTimeToLiveInSeconds: 1209600
        }
      }
    }
    deadLetterWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: {
          resourceId: account.id
          blobContainerName: undelivered.name
        }
      }
    }
    eventDeliverySchema: 'EventGridSchema'
    filter: {
      includedEventTypes: ['Microsoft.Storage.BlobCreated', 'Microsoft.Storage.BlobDeleted']
      subjectBeginsWith: '/blobServices/default/containers/${container}/blobs/${prefix}/${detector}/videos/'
      isSubjectCaseSensitive: true
    }
    retryPolicy: {
      eventTimeToLiveInMinutes: 1440
      maxDeliveryAttempts: 30
    }
  }
  dependsOn: [
    newsTells
    newsKeeps
  ]
}

// Rights -------------------------------------------------------------------------------------------------------------

resource newsTells 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(newVideos.id, news.id, queueSender)
  scope: newVideos
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', queueSender)
    principalId: news.identity.principalId
    principalType: 'ServicePrincipal'
  }
}

resource newsKeeps 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(undelivered.id, news.id, blobContributor)
  scope: undelivered
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: news.identity.principalId
    principalType: 'ServicePrincipal'
  }
}

// It takes messages and ends them; it can send none.
resource dagsterHears 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(newVideos.id, principal, queueProcessor)
  scope: newVideos
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', queueProcessor)
    principalId: principal
    principalType: principalType
  }
}

// Alerts -------------------------------------------------------------------------------------------------------------

resource undeliveredAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'detection-${plain}-undelivered'
  location: 'global'
  properties: {
    description: 'News of videos of ${detector} that could not be delivered; the hourly listing finds the videos themselves'
    severity: 3
    enabled: true
    scopes: [news.id]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'undelivered'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.EventGrid/systemTopics'
          metricName: 'DeadLetteredCount'
          dimensions: [
            {
              name: 'EventSubscriptionName'
              operator: 'Include'
              values: [videosAreTold.name]
            }
          ]
          operator: 'GreaterThan'
          threshold: 0
          timeAggregation: 'Total'
        }
      ]
    }
    actions: actions
  }
}

// Both slots together: which of them serves changes with every version.
resource endpointFailsAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = if (!empty(endpoint)) {
  name: 'detection-${plain}-endpoint-fails'
  location: 'global'
  properties: {
    description: 'The endpoint of ${detector} fails requests'
    severity: 1
    enabled: true
    scopes: [resourceId('Microsoft.MachineLearningServices/workspaces/onlineEndpoints', name, endpoint)]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'failed'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints'
          metricName: 'RequestsPerMinute'
          dimensions: [
            {
              name: 'statusCodeClass'
              operator: 'Include'
              values: ['5xx']
            }
          ]
          operator: 'GreaterThan'
          threshold: errorsPerMinute
          timeAggregation: 'Average'
        }
      ]
    }
    actions: actions
  }
}

resource endpointSlowAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = if (!empty(endpoint)) {
  name: 'detection-${plain}-endpoint-slow'
  location: 'global'
  properties: {
    description: 'The endpoint of ${detector} is slow'
    severity: 2
    enabled: true
    scopes: [resourceId('Microsoft.MachineLearningServices/workspaces/onlineEndpoints', name, endpoint)]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'slow'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints'
          metricName: 'RequestLatency_P95'
          operator: 'GreaterThan'
          threshold: latencyMs
          timeAggregation: 'Average'
        }
      ]
    }
    actions: actions
  }
}

@description('The detector\'s queue; DETECTION_AZURE_QUEUE is the same with {detector} for the detector\'s name.')
output Queue string = 'https://${account.name}.queue.${environment().suffixes.storage}/${newVideos.name}'
