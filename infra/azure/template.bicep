// What Detection Assets needs in an Azure resource group: the lake, an Azure ML workspace with its clusters, a registry
// for the images, and the rights of jobs and of whoever runs Dagster.
//
//   az deployment group create --resource-group detection --template-file infra/azure/template.bicep \
//     --parameters name=mydetection principal=<object id>

targetScope = 'resourceGroup'

@description('What everything is called, or begins with: small letters and digits. Storage accounts share one namespace with all of Azure.')
@minLength(3)
@maxLength(18)
param name string

@description('Where everything is.')
param location string = resourceGroup().location

@description('Object id of the user, group or service principal that runs Dagster.')
param principal string

@description('What the principal is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string = 'ServicePrincipal'

@description('The lake\'s container, as in DETECTION_LAKE=az://<container>/detectors.')
param container string = 'lake'

@description('Days for which replaced and deleted blobs can be had back.')
@minValue(1)
@maxValue(365)
param keepDays int = 30

@description('Size of the machines for `hardware: cpu`.')
param cpuSize string = 'Standard_D4ds_v5'

@description('Size of the machines for `hardware: gpu`.')
param gpuSize string = 'Standard_NC4as_T4_v3'

@description('The most machines that each cluster has; without work each has none.')
@minValue(1)
@maxValue(100)
param mostMachines int = 4

@description('Whether batch endpoints are asked for (DETECTION_AZURE_BATCH), which takes rights that nothing else does.')
param batch bool = false

// The built-in roles that are given below, by the ids that Azure has for them everywhere.
var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var identityOperator = 'f1a07417-d97a-45cb-824c-7a7467783830'
var blobReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d'

// The lake -----------------------------------------------------------------------------------------------------------

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: '${name}lake'
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    allowBlobPublicAccess: false
    defaultToOAuthAuthentication: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: account
  name: 'default'
  properties: {
    isVersioningEnabled: true
    deleteRetentionPolicy: {
      enabled: true
      days: keepDays
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: keepDays
    }
  }
}

resource lake 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: container
  properties: {
    publicAccess: 'None'
  }
}

// Versions are kept for as long as deleted blobs are; for ever would be for money.
resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2023-05-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'old-versions'
          type: 'Lifecycle'
          enabled: true
          definition: {
            filters: {
              blobTypes: ['blockBlob']
            }
            actions: {
              version: {
                delete: {
                  daysAfterCreationGreaterThan: keepDays
                }
              }
            }
          }
        }
      ]
    }
  }
}

// Tells what comes into the lake and what goes; whom it tells of what is infra/azure/detector.bicep's. Azure lets an
// account have one such topic.
resource news 'Microsoft.EventGrid/systemTopics@2022-06-15' = {
  name: '${name}-news'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: account.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

// The workspace ------------------------------------------------------------------------------------------------------

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: '${name}-logs'
  location: location
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: keepDays < 30 ? 30 : keepDays
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: '${name}-insights'
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logs.id
  }
}

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: '${name}-vault'
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    enablePurgeProtection: true
  }
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: '${name}images'
  location: location
  sku: {
    name: 'Basic'
  }
  properties: {
    adminUserEnabled: false
  }
}

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-04-01' = {
  name: name
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    friendlyName: 'Detection Assets'
    storageAccount: account.id
    keyVault: vault.id
    applicationInsights: insights.id
    containerRegistry: registry.id
    systemDatastoresAuthMode: 'identity'
  }
}

// The studio shows the lake's folders as inputs and outputs of jobs by this name.
resource datastore 'Microsoft.MachineLearningServices/workspaces/datastores@2024-04-01' = {
  parent: workspace
  name: 'detection_lake'
  properties: {
    datastoreType: 'AzureBlob'
    accountName: account.name
    containerName: lake.name
    credentials: {
      credentialsType: 'None'
    }
    serviceDataAccessAuthIdentity: 'None'
  }
}

resource jobs 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-jobs'
  location: location
}

var clusters = [
  {
    name: 'cpu'
    size: cpuSize
    priority: 'Dedicated'
  }
  {
    name: 'gpu'
    size: gpuSize
    priority: 'Dedicated'
  }
  {
    name: 'gpu-spare'
    size: gpuSize
    priority: 'LowPriority'
  }
]

resource machines 'Microsoft.MachineLearningServices/workspaces/computes@2024-04-01' = [
  for cluster in clusters: {
    parent: workspace
    name: cluster.name
    location: location
    identity: {
      type: 'UserAssigned'
      userAssignedIdentities: {
        '${jobs.id}': {}
      }
    }
    properties: {
      computeType: 'AmlCompute'
      properties: {
        vmSize: cluster.size
        vmPriority: cluster.priority
        scaleSettings: {
          minNodeCount: 0
          maxNodeCount: mostMachines
          nodeIdleTimeBeforeScaleDown: 'PT2M'
        }
        remoteLoginPortPublicAccess: 'Disabled'
      }
    }
  }
]

// Rights -------------------------------------------------------------------------------------------------------------

// Jobs read and write the lake, and fetch their image. They see no other container, and start nothing.
resource jobsInTheLake 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(lake.id, jobs.id, blobContributor)
  scope: lake
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: jobs.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource jobsFetchImages 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, jobs.id, acrPull)
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
    principalId: jobs.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource dagsterInTheLake 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(lake.id, principal, blobContributor)
  scope: lake
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: principal
    principalType: principalType
  }
}

// What Dagster asks of the workspace, action by action. The role `AzureML Data Scientist` could do far more.
resource runner 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(workspace.id, 'detection-runner')
  properties: {
    roleName: 'Detection Assets in ${name}'
    description: 'What Detection Assets asks of its workspace.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: [
          'Microsoft.MachineLearningServices/workspaces/read'
          'Microsoft.MachineLearningServices/workspaces/computes/read'
          'Microsoft.MachineLearningServices/workspaces/data/versions/read'
          'Microsoft.MachineLearningServices/workspaces/data/versions/write'
          'Microsoft.MachineLearningServices/workspaces/datastores/read'
          'Microsoft.MachineLearningServices/workspaces/data/read'
          'Microsoft.MachineLearningServices/workspaces/data/write' // a version is of a container, which is made with it
          'Microsoft.MachineLearningServices/workspaces/models/read'
          'Microsoft.MachineLearningServices/workspaces/models/write' // as above
          'Microsoft.MachineLearningServices/workspaces/models/versions/read'
          'Microsoft.MachineLearningServices/workspaces/models/versions/write'
          'Microsoft.MachineLearningServices/workspaces/environments/read'
          'Microsoft.MachineLearningServices/workspaces/environments/write' // as above
          'Microsoft.MachineLearningServices/workspaces/environments/versions/read'
          'Microsoft.MachineLearningServices/workspaces/environments/versions/write'
          'Microsoft.MachineLearningServices/workspaces/experiments/read' // MLflow tells of runs by requests of its own
          'Microsoft.MachineLearningServices/workspaces/experiments/write' // as above
          'Microsoft.MachineLearningServices/workspaces/experiments/runs/read'
          // A trial logs what it has reached to its run, by the right of whoever has asked for it.
          'Microsoft.MachineLearningServices/workspaces/experiments/runs/write' // as above
          'Microsoft.MachineLearningServices/workspaces/jobs/read'
          'Microsoft.MachineLearningServices/workspaces/jobs/write'
          'Microsoft.MachineLearningServices/workspaces/jobs/cancel/action'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/read'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/write'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/delete'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/listkeys/action'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/read'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/write'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/delete'
          'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/getLogs/action'
          'Microsoft.MachineLearningServices/workspaces/models/versions/delete'
          'Microsoft.MachineLearningServices/workspaces/codes/versions/read'
          'Microsoft.MachineLearningServices/workspaces/codes/versions/write'
          'Microsoft.MachineLearningServices/workspaces/codes/versions/startPendingUpload/action'
        ]
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource dagsterInTheWorkspace 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, principal, runner.id)
  scope: workspace
  properties: {
    roleDefinitionId: runner.id
    principalId: principal
    principalType: principalType
  }
}

// The endpoints ------------------------------------------------------------------------------------------------------

resource servers 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-servers'
  location: location
}

// Servers read their model, and write what they count and keep of the requests.
resource serversInTheLake 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(lake.id, servers.id, blobContributor)
  scope: lake
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: servers.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource serversFetchImages 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, servers.id, acrPull)
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
    principalId: servers.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// To show copies of requests to the other slot a server has to be told the endpoint's key.
resource asker 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(workspace.id, 'detection-asker')
  properties: {
    roleName: 'Detection Assets asking endpoints in ${name}'
    description: 'What servers of Detection Assets ask of their workspace.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: ['Microsoft.MachineLearningServices/workspaces/onlineEndpoints/listkeys/action']
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource serversInTheWorkspace 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, servers.id, asker.id)
  scope: workspace
  properties: {
    roleDefinitionId: asker.id
    principalId: servers.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// Who makes an endpoint has to be allowed to give it its identity.
resource dagsterGivesTheIdentity 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(servers.id, principal, identityOperator)
  scope: servers
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', identityOperator)
    principalId: principal
    principalType: principalType
  }
}

// Rules by which Azure Monitor adds and removes servers are things of the resource group, not of the workspace.
resource scaler 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, 'detection-scaler')
  properties: {
    roleName: 'Detection Assets scaling endpoints in ${name}'
    description: 'What Detection Assets asks of Azure Monitor.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: [
          'Microsoft.Insights/autoscaleSettings/write'
          'Microsoft.Insights/autoscaleSettings/delete'
        ]
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource dagsterScales 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(resourceGroup().id, principal, scaler.id)
  properties: {
    roleDefinitionId: scaler.id
    principalId: principal
    principalType: principalType
  }
}

// Batch endpoints ----------------------------------------------------------------------------------------------------

// Uploaded code lies in a container of the workspace's own, whose name is not known before there is a workspace.
resource jobsReadTheAccount 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (batch) {
  name: guid(account.id, jobs.id, blobReader)
  scope: account
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobReader)
    principalId: jobs.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// The first part is what Dagster asks for; the second what Azure ML says that whoever invokes an endpoint needs beside
// it (Authorization on batch endpoints), without what the workspace's own identity does.
resource batchRunner 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (batch) {
  name: guid(workspace.id, 'detection-batch-runner')
  properties: {
    roleName: 'Detection Assets, batch endpoints in ${name}'
    description: 'What Detection Assets asks of its workspace where a batch endpoint predicts.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: [
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/read'
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/write'
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/jobs/read' // Azure ML asks for it when an endpoint is invoked
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/jobs/write' // as above
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/deployments/read'
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/deployments/write'
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/deployments/delete'
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/deployments/jobs/read' // as above
          'Microsoft.MachineLearningServices/workspaces/batchEndpoints/deployments/jobs/write' // as above
          'Microsoft.MachineLearningServices/workspaces/codes/read' // as above
          'Microsoft.MachineLearningServices/workspaces/codes/write' // as above
          'Microsoft.MachineLearningServices/workspaces/codes/versions/read'
          'Microsoft.MachineLearningServices/workspaces/codes/versions/write'
          'Microsoft.MachineLearningServices/workspaces/models/read'
          'Microsoft.MachineLearningServices/workspaces/models/write' // as above
          'Microsoft.MachineLearningServices/workspaces/models/versions/read'
          'Microsoft.MachineLearningServices/workspaces/models/versions/write'
          'Microsoft.MachineLearningServices/workspaces/data/versions/write'
          'Microsoft.MachineLearningServices/workspaces/datasets/registered/read' // as above
          'Microsoft.MachineLearningServices/workspaces/datasets/registered/write' // as above
          'Microsoft.MachineLearningServices/workspaces/datasets/unregistered/read' // as above
          'Microsoft.MachineLearningServices/workspaces/datasets/unregistered/write' // as above
          'Microsoft.MachineLearningServices/workspaces/datastores/listsecrets/action' // as above
          'Microsoft.MachineLearningServices/workspaces/listStorageAccountKeys/action' // as above
          'Microsoft.MachineLearningServices/workspaces/computes/listKeys/action' // as above
          'Microsoft.MachineLearningServices/workspaces/metadata/secrets/read' // as above
          'Microsoft.MachineLearningServices/workspaces/metadata/snapshots/read' // as above
          'Microsoft.MachineLearningServices/workspaces/metadata/artifacts/read' // as above
          'Microsoft.MachineLearningServices/workspaces/metadata/artifacts/write' // as above
          'Microsoft.MachineLearningServices/workspaces/experiments/runs/submit/action' // as above
          'Microsoft.MachineLearningServices/workspaces/experiments/runs/write' // as above
          'Microsoft.MachineLearningServices/workspaces/metrics/resource/write' // as above
          'Microsoft.MachineLearningServices/workspaces/modules/read' // as above
          'Microsoft.MachineLearningServices/workspaces/endpoints/pipelines/read' // as above
          'Microsoft.MachineLearningServices/workspaces/endpoints/pipelines/write' // as above
          'Microsoft.MachineLearningServices/workspaces/environments/build/action' // as above
          'Microsoft.MachineLearningServices/workspaces/environments/readSecrets/action' // as above
        ]
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource dagsterInvokesBatch 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (batch) {
  name: guid(workspace.id, principal, batchRunner.id)
  scope: workspace
  properties: {
    roleDefinitionId: batchRunner.id
    principalId: principal
    principalType: principalType
  }
}

// What goes into .env --------------------------------------------------------------------------------------------------

output DETECTION_LAKE string = 'az://${container}/detectors'
output AZURE_STORAGE_ACCOUNT_NAME string = account.name
@description('Where a detector hears of its videos, once infra/azure/detector.bicep has made its queue.')
output DETECTION_AZURE_QUEUE string = 'https://${account.name}.queue.${environment().suffixes.storage}/detection-{detector}-videos'
output DETECTION_AZURE_SUBSCRIPTION string = subscription().subscriptionId
output DETECTION_AZURE_RESOURCE_GROUP string = resourceGroup().name
output DETECTION_AZURE_WORKSPACE string = workspace.name
output DETECTION_AZURE_DATASTORE string = datastore.name
output DETECTION_AZURE_CPU string = clusters[0].name
output DETECTION_AZURE_ENDPOINT_IDENTITY string = servers.id
output DETECTION_AZURE_GPU string = clusters[1].name
output DETECTION_AZURE_SPOT string = clusters[2].name
output DETECTION_AZURE_IDENTITY string = jobs.properties.clientId

@description('The address before /detection-programs and /detection-serving.')
output REGISTRY string = registry.properties.loginServer
