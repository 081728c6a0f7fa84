// An address on the internet for one detector's endpoint, for callers who are not to have its key: API Management, which
// knows them, writes them down and slows them down, and asks the endpoint with a key that it has from the vault. Nothing
// else needs it.
//
//   az deployment group create --resource-group detection --name fridge-front --template-file infra/azure/front.bicep \
//     --parameters name=mydetection detector=fridge scoring=<its scoring URI> publisher=me@example.org

targetScope = 'resourceGroup'

@description('As template.bicep was given it.')
@minLength(3)
@maxLength(18)
param name string

@description('Where it is.')
param location string = resourceGroup().location

@description('The detector\'s name, as in detectors/<name>.yaml.')
@maxLength(40)
param detector string

@description('Address of the endpoint\'s /score, as `az ml online-endpoint show` tells it.')
param scoring string

@description('Name of the vault\'s secret that has the endpoint\'s key.')
param keySecret string = 'detection-${replace(detector, '_', '-')}-key'

@description('Mail address of whoever is responsible; Azure asks for one.')
param publisher string

@description('Who issues the tokens (JWT) that callers need besides their subscription\'s key, as the address of its OpenID configuration; empty for none.')
param issuer string = ''

@description('For whom the tokens must be issued, with an issuer; if it is left empty no token is good.')
param audience string = ''

@description('Requests in ten seconds that one caller may make; the others get a 429.')
@minValue(1)
param requests int = 100

@description('Id of an action group that is told of alerts; empty for none.')
param actionGroup string = ''

@description('Requests that may fail in five minutes before it is an alert.')
@minValue(0)
param errors int = 5

// Key Vault Secrets User, by the id that Azure has for it everywhere.
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var plain = replace(detector, '_', '-')
var byToken = !empty(issuer)

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: '${name}-vault'
}

resource key 'Microsoft.KeyVault/vaults/secrets@2023-07-01' existing = {
  parent: vault
  name: keySecret
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: '${name}-insights'
}

resource gateway 'Microsoft.ApiManagement/service@2022-08-01' = {
  name: '${name}-${plain}-front'
  location: location
  sku: {
    name: 'Consumption'
    capacity: 0
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    publisherName: 'Detection Assets'
    publisherEmail: publisher
    customProperties: {
      'Microsoft.WindowsAzure.ApiManagement.Gateway.Security.Protocols.Tls10': 'false'
      'Microsoft.WindowsAzure.ApiManagement.Gateway.Security.Protocols.Tls11': 'false'
    }
  }
}

resource gatewayOpensTheKey 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(key.id, gateway.id, secretsUser)
  scope: key
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: gateway.identity.principalId
    principalType: 'ServicePrincipal'
  }
}

resource endpointKey 'Microsoft.ApiManagement/service/namedValues@2022-08-01' = {
  parent: gateway
  name: 'endpoint-key'
  properties: {
    displayName: 'endpoint-key'
    secret: true
    keyVault: {
      secretIdentifier: '${vault.properties.vaultUri}secrets/${keySecret}'
    }
  }
  dependsOn: [
    gatewayOpensTheKey
  ]
}

resource api 'Microsoft.ApiManagement/service/apis@2022-08-01' = {
  parent: gateway
  name: 'detector'
  properties: {
    displayName: 'The detector ${detector}'
    path: ''
    protocols: ['https']
    serviceUrl: replace(scoring, '/score', '')
    subscriptionRequired: true
    type: 'http'
  }
}

// The one way in; there is none past the one that asks who it is.
resource score 'Microsoft.ApiManagement/service/apis/operations@2022-08-01' = {
  parent: api
  name: 'score'
  properties: {
    displayName: 'Score'
    method: 'POST'
    urlTemplate: '/score'
  }
}

var asksForAToken = '<validate-jwt header-name="Authorization" failed-validation-httpcode="401" require-scheme="Bearer"><openid-config url="${issuer}" /><audiences><audience>${audience}</audience></audiences></validate-jwt>'

resource policy 'Microsoft.ApiManagement/service/apis/policies@2022-08-01' = {
  parent: api
  name: 'policy'
  properties: {
    format: 'rawxml'
    value: '<policies><inbound><base />${byToken ? asksForAToken : ''}<set-header name="Authorization" exists-action="override"><value>Bearer {{endpoint-key}}</value></set-header><set-header name="Ocp-Apim-Subscription-Key" exists-action="delete" /><set-header name="azureml-model-deployment" exists-action="delete" /></inbound><backend><forward-request timeout="60" /></backend><outbound><base /></outbound><on-error><base /></on-error></policies>'
  }
  dependsOn: [
    endpointKey
  ]
}

resource callers 'Microsoft.ApiManagement/service/products@2022-08-01' = {
  parent: gateway
  name: 'callers'
  properties: {
    displayName: 'Callers of ${detector}'
    subscriptionRequired: true
    state: 'published'
  }
}

resource callersMayScore 'Microsoft.ApiManagement/service/products/apis@2022-08-01' = {
  parent: callers
  name: 'detector'
  dependsOn: [
    api
  ]
}

// Of each subscription by itself: one caller who asks too much takes nothing from the others.
resource callersAreSlowed 'Microsoft.ApiManagement/service/products/policies@2022-08-01' = {
  parent: callers
  name: 'policy'
  properties: {
    format: 'rawxml'
    value: '<policies><inbound><base /><rate-limit calls="${requests}" renewal-period="10" /></inbound><backend><base /></backend><outbound><base /></outbound><on-error><base /></on-error></policies>'
  }
}

resource logger 'Microsoft.ApiManagement/service/loggers@2022-08-01' = {
  parent: gateway
  name: 'insights'
  properties: {
    loggerType: 'applicationInsights'
    credentials: {
      instrumentationKey: insights.properties.InstrumentationKey
    }
    resourceId: insights.id
  }
}

// Who asked when, and what came of it; never a picture.
resource written 'Microsoft.ApiManagement/service/diagnostics@2022-08-01' = {
  parent: gateway
  name: 'applicationinsights'
  properties: {
    loggerId: logger.id
    alwaysLog: 'allErrors'
    logClientIp: true
    sampling: {
      samplingType: 'fixed'
      percentage: 100
    }
    frontend: {
      request: {
        body: {
          bytes: 0
        }
      }
      response: {
        body: {
          bytes: 0
        }
      }
    }
  }
}

resource failsAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'detection-${plain}-front-fails'
  location: 'global'
  properties: {
    description: 'The front of ${detector} fails requests'
    severity: 1
    enabled: true
    scopes: [gateway.id]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'failed'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.ApiManagement/service'
          metricName: 'Requests'
          dimensions: [
            {
              name: 'BackendResponseCodeCategory'
              operator: 'Include'
              values: ['5xx']
            }
          ]
          operator: 'GreaterThan'
          threshold: errors
          timeAggregation: 'Total'
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

@description('What callers ask.')
output Url string = '${gateway.properties.gatewayUrl}/score'
