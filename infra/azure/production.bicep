// Dagster itself for Detection Assets: its database, the user interface, the daemon and the code servers as Container
// Apps, and what runs are started with, in a network of its own. Built on what template.bicep has made.
//
//   az deployment group create --resource-group detection --template-file infra/azure/production.bicep \
//     --parameters name=mydetection tag=1 login=<client id> people='["<object id>"]' tracking=<MLflow's address> \
//       identity=<client id> databasePassword="$(openssl rand -hex 20)"

targetScope = 'resourceGroup'

@description('As template.bicep was given it.')
@minLength(3)
@maxLength(18)
param name string

@description('Where everything is; where template.bicep has put its own.')
param location string = resourceGroup().location

@description('Tag of the images, as in `make images TAG=...`.')
param tag string

@description('The detectors; each has a code server, and an entry in infra/azure/dagster/workspace.yaml.')
param detectors array = ['fridge', 'surgical']

@description('Client id of an app registration of Entra ID, with whose login Dagster\'s pages are reached.')
param login string

@description('Object ids of the users and service principals who are let in.')
@minLength(1)
param people array

@description('MLFLOW_TRACKING_URI; without a password.')
param tracking string

@description('Password of Dagster\'s database. It is kept in the vault; the next deployment has to be given the same.')
@secure()
@minLength(20)
param databasePassword string

@description('The lake\'s container, as template.bicep was given it.')
param container string = 'lake'

@description('Name of a secret in the vault whose text is DETECTION_ALERTS; empty for none.')
param alertsSecret string = ''

@description('DETECTION_AZURE_QUEUE, the output of template.bicep, once each detector has deployed detector.bicep; empty for listing.')
param queue string = ''

@description('Client id of the clusters\' identity, the output DETECTION_AZURE_IDENTITY of template.bicep.')
param identity string

@description('Resource id of the servers\' identity, the output DETECTION_AZURE_ENDPOINT_IDENTITY of template.bicep.')
param servers string

@description('DETECTION_AZURE_BATCH, a cluster for batch endpoints; empty for none, which is command jobs.')
param batch string = ''

@description('Size of the database\'s machine.')
param databaseSize string = 'Standard_B2s'

@description('Gigabytes of the database.')
@minValue(32)
param databaseGigabytes int = 32

@description('The network\'s addresses; a /16.')
param addresses string = '10.60.0.0/16'

// The built-in roles that are given below, by the ids that Azure has for them everywhere.
var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d'
var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobDelegator = 'db58b8e5-c6ad-4a2a-8342-4190687cbf4a'
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var identityOperator = 'f1a07417-d97a-45cb-824c-7a7467783830'

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: '${name}lake'
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: '${name}images'
}

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: '${name}-vault'
}

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = {
  name: '${name}-logs'
}

// The network: Dagster's apps in one half, the database in the other, reached from nowhere else ------------------------

resource network 'Microsoft.Network/virtualNetworks@2023-11-01' = {
  name: '${name}-dagster'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [addresses]
    }
    subnets: [
      {
        name: 'apps'
        properties: {
          addressPrefix: cidrSubnet(addresses, 23, 0)
          delegations: [
            {
              name: 'apps'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'database'
        properties: {
          addressPrefix: cidrSubnet(addresses, 28, 64)
          delegations: [
            {
              name: 'database'
              properties: {
                serviceName: 'Microsoft.DBforPostgreSQL/flexibleServers'
              }
            }
          ]
        }
      }
    ]
  }
}

resource apps 'Microsoft.Network/virtualNetworks/subnets@2023-11-01' existing = {
  parent: network
  name: 'apps'
}

resource databaseSubnet 'Microsoft.Network/virtualNetworks/subnets@2023-11-01' existing = {
  parent: network
  name: 'database'
}

resource names 'Microsoft.Network/privateDnsZones@2020-06-01' = {
  name: '${name}.private.postgres.database.azure.com'
  location: 'global'
}

resource namesAreKnown 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = {
  parent: names
  name: 'dagster'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

// The database ---------------------------------------------------------------------------------------------------------

resource database 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: '${name}-dagster'
  location: location
  sku: {
    name: databaseSize
    tier: startsWith(databaseSize, 'Standard_B') ? 'Burstable' : 'GeneralPurpose'
  }
  properties: {
    version: '17'
    administratorLogin: 'dagster'
    administratorLoginPassword: databasePassword
    authConfig: {
      activeDirectoryAuth: 'Disabled'
      passwordAuth: 'Enabled'
    }
    storage: {
      storageSizeGB: databaseGigabytes
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: 14
      geoRedundantBackup: 'Disabled'
    }
    network: {
      delegatedSubnetResourceId: databaseSubnet.id
      privateDnsZoneArmResourceId: names.id
      publicNetworkAccess: 'Disabled'
    }
  }
  dependsOn: [
    namesAreKnown
  ]
}

resource dagsters 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01' = {
  parent: database
  name: 'dagster'
}

resource databaseStays 'Microsoft.Authorization/locks@2020-05-01' = {
  name: 'runs-and-events'
  scope: database
  properties: {
    level: 'CanNotDelete'
    notes: 'Runs and events of Detection Assets'
  }
}

resource password 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'detection-database'
  properties: {
    value: databasePassword
    contentType: 'Password of Dagster\'s database'
  }
}

resource alerts 'Microsoft.KeyVault/vaults/secrets@2023-07-01' existing = {
  parent: vault
  name: empty(alertsSecret) ? 'none' : alertsSecret
}

// What steps print
resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

resource printed 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'dagster'
  properties: {
    publicAccess: 'None'
  }
}

// Two identities -------------------------------------------------------------------------------------------------------

// The user interface and the daemon: they start and stop runs, and read what steps printed; the lake is not theirs.
resource control 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-control'
  location: location
}

// Code servers and runs. What is in the lake and in the workspace is theirs by template.bicep and detector.bicep, which
// are deployed once more for this one as their `principal`.
resource work 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-work'
  location: location
}

resource controlFetchesImages 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, control.id, acrPull)
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource workFetchesImages 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, work.id, acrPull)
  scope: registry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
    principalId: work.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource controlOpensTheDatabase 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(password.id, control.id, secretsUser)
  scope: password
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource workOpensTheDatabase 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(password.id, work.id, secretsUser)
  scope: password
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: work.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource workTellsPeople 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(alertsSecret)) {
  name: guid(alerts.id, work.id, secretsUser)
  scope: alerts
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: work.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource controlReadsWhatIsPrinted 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(printed.id, control.id, blobContributor)
  scope: printed
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// The pages link to what was printed by addresses that are signed for some hours, which are a right to that one blob.
resource controlSigns 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, control.id, blobDelegator)
  scope: account
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDelegator)
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource workPrints 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(printed.id, work.id, blobContributor)
  scope: printed
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    principalId: work.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// What the launcher asks for, action by action; a run is a job in this resource group.
resource starter 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, name, 'detection-starter')
  properties: {
    roleName: 'Detection Assets starts runs in ${name}'
    description: 'What Dagster asks of Container Apps to start, watch and stop runs.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: [
          'Microsoft.App/jobs/read'
          'Microsoft.App/jobs/write'
          'Microsoft.App/jobs/delete'
          'Microsoft.App/jobs/start/action'
          'Microsoft.App/jobs/stop/action'
          'Microsoft.App/jobs/executions/read'
          'Microsoft.App/managedEnvironments/join/action' // a job is made in the environment
        ]
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
  }
}

resource controlStartsRuns 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(resourceGroup().id, control.id, starter.id)
  properties: {
    roleDefinitionId: starter.id
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// A job is given an identity by who makes it: this one, and no other.
resource controlGivesIdentity 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(work.id, control.id, identityOperator)
  scope: work
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', identityOperator)
    principalId: control.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

// The apps -------------------------------------------------------------------------------------------------------------

resource environmentOfApps 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: '${name}-dagster'
  location: location
  properties: {
    vnetConfiguration: {
      infrastructureSubnetId: apps.id
      internal: false
    }
    appLogsConfiguration: {
      destination: 'azure-monitor'
    }
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
  }
}

resource appsAreLogged 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'logs'
  scope: environmentOfApps
  properties: {
    workspaceId: logs.id
    logs: [
      {
        category: 'ContainerAppConsoleLogs'
        enabled: true
      }
      {
        category: 'ContainerAppSystemLogs'
        enabled: true
      }
    ]
  }
}

var programs = '${registry.properties.loginServer}/detection-programs:${tag}'
var image = '${programs}-dagster'

// What each of them is told; runs are told it by the daemon, as infra/azure/dagster/dagster.yaml lists it.
var settings = [
  {
    name: 'DAGSTER_HOME'
    value: '/opt/dagster-azure'
  }
  {
    name: 'DAGSTER_PG_HOST'
    value: database.properties.fullyQualifiedDomainName
  }
  {
    name: 'DAGSTER_LOGS_ACCOUNT'
    value: account.name
  }
  {
    name: 'DAGSTER_LOGS_CONTAINER'
    value: printed.name
  }
  {
    name: 'DAGSTER_REGION'
    value: location
  }
  {
    name: 'DAGSTER_ENVIRONMENT'
    value: environmentOfApps.id
  }
  {
    name: 'DAGSTER_RUN_IDENTITY'
    value: work.id
  }
  {
    name: 'DAGSTER_RUN_CLIENT'
    value: work.properties.clientId
  }
  {
    name: 'DAGSTER_RUN_SECRETS'
    value: string(union({
      DAGSTER_PG_PASSWORD: '${vault.properties.vaultUri}secrets/${password.name}'
    }, empty(alertsSecret) ? {} : {
      DETECTION_ALERTS: '${vault.properties.vaultUri}secrets/${alertsSecret}'
    }))
  }
  {
    name: 'DETECTION_PLATFORM'
    value: 'azure'
  }
  {
    name: 'DETECTION_LAKE'
    value: 'az://${container}/detectors'
  }
  {
    name: 'DETECTION_AZURE_SUBSCRIPTION'
    value: subscription().subscriptionId
  }
  {
    name: 'DETECTION_AZURE_RESOURCE_GROUP'
    value: resourceGroup().name
  }
  {
    name: 'DETECTION_AZURE_WORKSPACE'
    value: name
  }
  {
    name: 'DETECTION_AZURE_DATASTORE'
    value: 'detection_lake'
  }
  {
    name: 'DETECTION_AZURE_CPU'
    value: 'cpu'
  }
  {
    name: 'DETECTION_AZURE_GPU'
    value: 'gpu'
  }
  {
    name: 'DETECTION_AZURE_SPOT'
    value: 'gpu-spare'
  }
  {
    name: 'DETECTION_AZURE_IDENTITY'
    value: identity
  }
  {
    name: 'DETECTION_AZURE_PROGRAMS_IMAGE'
    value: programs
  }
  {
    name: 'DETECTION_AZURE_SERVING_IMAGE'
    value: '${registry.properties.loginServer}/detection-serving:${tag}'
  }
  {
    name: 'DETECTION_AZURE_ENDPOINT_IDENTITY'
    value: servers
  }
  {
    name: 'DETECTION_AZURE_BATCH'
    value: batch
  }
  {
    name: 'DETECTION_AZURE_BATCH_IMAGE'
    value: '${registry.properties.loginServer}/detection-batch:${tag}'
  }
  {
    name: 'DETECTION_AZURE_QUEUE'
    value: queue
  }
  {
    name: 'AZURE_STORAGE_ACCOUNT_NAME'
    value: account.name
  }
  {
    name: 'MLFLOW_TRACKING_URI'
    value: tracking
  }
]

var withPassword = [
  {
    name: 'DAGSTER_PG_PASSWORD'
    secretRef: 'database-password'
  }
]

// A code server for each detector.
resource code 'Microsoft.App/containerApps@2024-03-01' = [
  for detector in detectors: {
    name: 'code-${replace(detector, '_', '-')}'
    location: location
    identity: {
      type: 'UserAssigned'
      userAssignedIdentities: {
        '${work.id}': {}
      }
    }
    properties: {
      environmentId: environmentOfApps.id
      workloadProfileName: 'Consumption'
      configuration: {
        activeRevisionsMode: 'Single'
        // Within the environment alone, under the app's name.
        ingress: {
          external: false
          transport: 'tcp'
          targetPort: 4000
          exposedPort: 4000
        }
        registries: [
          {
            server: registry.properties.loginServer
            identity: work.id
          }
        ]
        secrets: concat([
          {
            name: 'database-password'
            keyVaultUrl: '${vault.properties.vaultUri}secrets/${password.name}'
            identity: work.id
          }
        ], empty(alertsSecret) ? [] : [
          {
            name: 'alerts'
            keyVaultUrl: '${vault.properties.vaultUri}secrets/${alertsSecret}'
            identity: work.id
          }
        ])
      }
      template: {
        containers: [
          {
            name: 'code'
            image: image
            command: ['dagster', 'code-server', 'start', '--host', '0.0.0.0', '--port', '4000', '--location-name', detector, '--module-name', 'detection_assets.definitions', '--attribute', detector]
            env: concat(settings, withPassword, [
              {
                name: 'DAGSTER_CURRENT_IMAGE' // runs have the image of their code server
                value: image
              }
              {
                name: 'AZURE_CLIENT_ID'
                value: work.properties.clientId
              }
            ], empty(alertsSecret) ? [] : [
              {
                name: 'DETECTION_ALERTS'
                secretRef: 'alerts'
              }
            ])
            resources: {
              cpu: json('1')
              memory: '2Gi'
            }
            probes: [
              {
                type: 'Startup'
                tcpSocket: {
                  port: 4000
                }
                periodSeconds: 10
                failureThreshold: 30
              }
            ]
          }
        ]
        scale: {
          minReplicas: 1
          maxReplicas: 1
        }
      }
    }
    dependsOn: [
      workFetchesImages
      workOpensTheDatabase
      workTellsPeople
      dagsters
    ]
  }
]

// Two daemons would start every run twice, and Container Apps starts a new revision before it ends the old one: `make
// promote-azure` ends the old one first.
resource daemon 'Microsoft.App/containerApps@2024-03-01' = {
  name: 'daemon'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${control.id}': {}
    }
  }
  properties: {
    environmentId: environmentOfApps.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      registries: [
        {
          server: registry.properties.loginServer
          identity: control.id
        }
      ]
      secrets: [
        {
          name: 'database-password'
          keyVaultUrl: '${vault.properties.vaultUri}secrets/${password.name}'
          identity: control.id
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'daemon'
          image: image
          command: ['dagster-daemon', 'run', '--workspace', '/opt/dagster-azure/workspace.yaml']
          env: concat(settings, withPassword, [
            {
              name: 'AZURE_CLIENT_ID'
              value: control.properties.clientId
            }
          ])
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: 1
      }
    }
  }
  dependsOn: [
    code
    controlFetchesImages
    controlOpensTheDatabase
    controlStartsRuns
    controlGivesIdentity
  ]
}

// Dagster's pages know no users, and whoever reaches them may start and delete everything: so nobody reaches them but by
// a login of Entra ID, and of those who have one only `people`.
resource web 'Microsoft.App/containerApps@2024-03-01' = {
  name: 'web'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${control.id}': {}
    }
  }
  properties: {
    environmentId: environmentOfApps.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: true
        transport: 'auto'
        targetPort: 3000
        allowInsecure: false
      }
      registries: [
        {
          server: registry.properties.loginServer
          identity: control.id
        }
      ]
      secrets: [
        {
          name: 'database-password'
          keyVaultUrl: '${vault.properties.vaultUri}secrets/${password.name}'
          identity: control.id
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'web'
          image: image
          command: ['dagster-webserver', '--host', '0.0.0.0', '--port', '3000', '--workspace', '/opt/dagster-azure/workspace.yaml']
          env: concat(settings, withPassword, [
            {
              name: 'AZURE_CLIENT_ID'
              value: control.properties.clientId
            }
          ])
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: 1
      }
    }
  }
  dependsOn: [
    code
    controlFetchesImages
    controlOpensTheDatabase
    controlReadsWhatIsPrinted
    controlStartsRuns
    controlGivesIdentity
  ]
}

resource webAsksWho 'Microsoft.App/containerApps/authConfigs@2024-03-01' = {
  parent: web
  name: 'current'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      unauthenticatedClientAction: 'RedirectToLoginPage'
      redirectToProvider: 'azureactivedirectory'
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: login
          openIdIssuer: '${environment().authentication.loginEndpoint}${subscription().tenantId}/v2.0'
        }
        validation: {
          allowedAudiences: [login, 'api://${login}']
          defaultAuthorizationPolicy: {
            allowedPrincipals: {
              identities: people
            }
          }
        }
      }
    }
  }
}

// Alerts: the daemon is what everything else hangs on.
@description('Id of an action group that is told of alerts; empty for none.')
param actionGroup string = ''

resource daemonDiesAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: '${name}-daemon-restarts'
  location: 'global'
  properties: {
    description: 'Dagster\'s daemon has been started again and again'
    severity: 1
    enabled: true
    scopes: [daemon.id]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'restarts'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.App/containerapps'
          metricName: 'RestartCount'
          operator: 'GreaterThan'
          threshold: 3
          timeAggregation: 'Maximum'
        }
      ]
    }
    actions: empty(actionGroup) ? [] : [
      {
        actionGroupId: actionGroup
      }
    ]
  }
}

@description('Address of Dagster\'s pages; the app registration\'s redirect URI is the same with /.auth/login/aad/callback.')
output WEB string = 'https://${web.properties.configuration.ingress.fqdn}'

@description('Object id that template.bicep and detector.bicep are to be deployed with once more, as `principal`.')
output PRINCIPAL string = work.properties.principalId
